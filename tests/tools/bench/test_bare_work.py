"""Bare work is that of the run: as many rows, of the same form, by the same functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from envservers.environments.atari import AtariGroup
from seed.config.loading import parse_command_line
from seed.config.schema import Config
from seed.contract.loading import load_algorithm, load_algorithm_config
from seed.device.transfer import tensors_of
from seed.run.plan import make_agent
from seed.wire.spaces import SpaceSpec
from tools.bench import bare_work
from tools.bench.bare_work import (
    describe_spaces,
    make_acting,
    make_learning,
    make_stepping,
    make_unroll,
    measure,
)

CONFIGS = Path(__file__).parents[3] / "configs"
CPU = torch.device("cpu")
TINY = {
    "catch_vtrace": (),
    "memory_chain_r2d2": ("--learner.batch-size", "2"),
    "pong_vtrace": ("--learner.batch-size", "2", "--learner.unroll-length", "5"),
}


def _config(name: str, *words: str) -> Config:
    path = str(CONFIGS / f"{name}.toml")
    words = ("--inference.device", "cpu", "--learner.device", "cpu", *TINY[name], *words)
    return parse_command_line([path, *words], load_algorithm_config).config


def test_steps_are_of_one_group_and_atari_is_stepped_by_the_emulator_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AtariGroup, "step", lambda *_: pytest.fail("not bare"))
    for name, count, rows in (("catch_vtrace", "7", 4), ("pong_vtrace", "4", 2)):
        work = make_stepping(_config(name, "--local.envs-per-server", count))
        assert [work.run(), work.run()] == [rows, rows]
        work.close()


def _given(monkeypatch: pytest.MonkeyPatch, config: Config) -> nn.Module:
    """The agent that bare work will have."""
    agent = make_agent(load_algorithm("vtrace"), config, describe_spaces(config), CPU)
    monkeypatch.setattr(bare_work, "make_agent", lambda *arguments: agent)
    return agent


def test_acting_rounds_weights_as_inference_does(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config("pong_vtrace", "--network.precision", "bfloat16")
    agent = _given(monkeypatch, config)
    assert make_acting(config, 3).run() == 3
    dtypes = {parameter.dtype for parameter in agent.parameters()}
    assert dtypes == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "words", "steps"),
    [
        ("catch_vtrace", (), 8 * 20),
        ("catch_vtrace", ("--inference.evaluation-share", "0.5"), 2 * 8 * 20),
        # Every row eight times, an eighth of the environments never.
        ("memory_chain_r2d2", (), 2 * 16 / 8 / (7 / 8)),
    ],
)
def test_an_update_stands_for_the_steps_that_bring_its_rows(
    name: str, words: tuple[str, ...], steps: float
) -> None:
    assert make_learning(_config(name, *words)).run() == pytest.approx(steps)


def test_updates_leave_the_weights_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config("catch_vtrace")
    agent = _given(monkeypatch, config)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    make_learning(config).run()
    assert all(parameter.grad is not None for parameter in agent.parameters())
    for name, value in agent.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", TINY)
def test_an_unroll_is_as_a_run_makes_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_work, "_END_PROBABILITY", 0.5)
    config = _config(name)
    algorithm, spaces = load_algorithm(config.algorithm_name), describe_spaces(config)
    agent = make_agent(algorithm, config, spaces, CPU)
    unroll = make_unroll(config, agent, spaces, CPU)
    burn_in, count = config.burn_in, config.learner.batch_size
    size = (burn_in + config.learner.unroll_length + 1, count)
    stack = (config.network.frame_stack,) if config.network.frame_stack > 1 else ()
    rows = unroll.rows
    assert rows.observations[""].shape == (*size, *stack, *spaces.observation.shape)
    assert str(rows.observations[""].dtype) == f"torch.{np.dtype(spaces.observation.dtype)}"
    of_rows = [*tensors_of(rows), unroll.actions, unroll.policy_versions]
    assert {values.shape[:2] for values in (*of_rows, *unroll.behaviour.values())} == {size}
    assert (unroll.importance.shape, unroll.burn_in) == ((count,), burn_in)
    # Episodes begin after those that ended.
    assert rows.terminated.any()
    assert not rows.first[0].any()
    assert torch.equal(rows.first[1:], rows.terminated[:-1])
    target = make_agent(algorithm, config, spaces, CPU)
    assert algorithm.loss(agent, target, unroll, config.algorithm).loss.isfinite()


def test_actions_in_a_box_have_its_form() -> None:
    space = SpaceSpec("float32", (2,))
    actions = bare_work._random_actions(space, (5, 3), np.random.default_rng(0))
    assert (actions.shape, actions.dtype) == ((5, 3, 2), np.float32)


def test_work_is_called_until_the_time_is_over() -> None:
    calls: list[None] = []

    def run() -> float:
        calls.append(None)
        return 2.5

    pace = measure(run, 0.01)
    assert pace.steps == 2.5 * len(calls)
    assert pace.elapsed_s >= 0.01
    calls.clear()
    assert measure(run, 0.0).steps == 2.5
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float32", "float64"])
def test_observations_cover_their_range_and_saturate_no_network(dtype: str) -> None:
    drawn = bare_work._random_observations(dtype, (100, 50), np.random.default_rng(0))
    assert (drawn.shape, drawn.dtype) == ((100, 50), dtype)
    if dtype.startswith("float"):
        assert abs(drawn).max() < 10
        assert 0.9 < drawn.std() < 1.1
    else:
        assert set(drawn.ravel().tolist()) == set(range(256 if dtype == "uint8" else 2))
