"""Runs in lock-step: the same bit for bit, without lag, and never held up by who dies or hangs."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.end_to_end.commands import Command, Start, last_known, read_metrics, wait_until

CATCH = ("configs/catch_a2c.toml",)
MEMORY_CHAIN = ("configs/memory_chain_vtrace.toml", "--learner.lockstep", "true")
PENDULUM = ("configs/cartpole_a2c.toml", "--environment.id", "Pendulum-v1",
            "--environment.vectorization", "sync")  # fmt: skip


class Trained(NamedTuple):
    """What a run has left behind."""

    weights: dict[str, Tensor]
    episodes: list[str]


@pytest.mark.parametrize(
    ("config", "servers"),
    [
        pytest.param(MEMORY_CHAIN, 2, id="memory_chain-2"),
        *(
            pytest.param(config, servers, id=f"{config[0][8:-5]}-{servers}", marks=pytest.mark.slow)
            for config in (CATCH, MEMORY_CHAIN, PENDULUM)
            for servers in (1, 2)
            if (config, servers) != (MEMORY_CHAIN, 2)
        ),
    ],
)
def test_the_same_seed_is_the_same_run(
    config: tuple[str, ...], servers: int, start: Start, tmp_path: Path
) -> None:
    def train(run: str, seed: int) -> Trained:
        command = start(
            "recording-learner", tmp_path / f"{run}.txt", *config, "--seed", seed,
            "--run-dir", tmp_path / run, "--total-env-frames", 20_000,
            "--local-envservers", servers, "--inference.address", "tcp://127.0.0.1:*",
        )  # fmt: skip
        assert command.wait() == 0, command.text
        lags = {line["policy_lag_mean"] for line in read_metrics(tmp_path / run)}
        assert lags - {None} == {0.0}
        (saved,) = (tmp_path / run / "checkpoints").glob("*/state.safetensors")
        return Trained(load_file(saved), (tmp_path / f"{run}.txt").read_text().splitlines())

    first, again, other = train("first", 1), train("again", 1), train("other", 2)
    assert len(first.episodes) > 60
    assert first.episodes == again.episodes
    assert first.episodes != other.episodes
    assert _equal(first, again)
    assert not _equal(first, other)


def _equal(one: Trained, other: Trained) -> bool:
    assert one.weights.keys() == other.weights.keys()
    return all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)


def test_who_dies_or_hangs_or_comes_holds_nobody_up(start: Start, tmp_path: Path) -> None:
    """Every unroll is checked on the way: a wrong one ends the learner."""
    config, run_dir = tmp_path / "run.toml", tmp_path / "run"
    # The last of 8 environments of a server hangs, once in all.
    environment = (
        'id = "tests.outside.faulty:make"\n'
        f'kwargs = {{ how = "hang", at = 300, marker = "{tmp_path}/hung" }}'
    )
    text = Path("tests/outside/counter.toml").read_text()
    config.write_text(re.sub("id = .*counter:make.*", environment, text))
    learner = start(
        "seed-learner", config, "--run-dir", run_dir, "--learner.lockstep", "true",
        "--learner.queue-batches", 1, "--inference.round-wait-s", 1, "--inference.lease-s", 0.2,
        "--local-envservers", 0, "--inference.address", "tcp://127.0.0.1:*",
        "--learner.lockstep-envs", 12, "--total-env-frames", 10**9,
    )  # fmt: skip
    address = re.search(r"tcp://\S+\d", learner.wait_for("listening on"))
    assert address is not None

    def start_server(num_envs: int) -> Command:
        return start(
            "seed-envserver", "--connect", address.group(), "--num-envs", num_envs, "--groups", 2
        )

    def go_on(steps: int) -> None:
        lines = read_metrics(run_dir)
        goal = (lines[-1]["env_steps"] if lines else 0) + steps
        wait_until(
            lambda: learner.process.poll() is not None
            or (bool(lines := read_metrics(run_dir)) and lines[-1]["env_steps"] >= goal)
        )
        assert learner.process.poll() is None, learner.text

    victim = start_server(4).process
    start_server(8)
    learner.wait_for("left the round")
    go_on(1_000)
    victim.kill()
    start_server(4)
    go_on(1_000)
    learner.process.send_signal(signal.SIGTERM)
    assert learner.wait() == 75, learner.text
    lines = read_metrics(run_dir)
    assert {line["policy_lag_mean"] for line in lines} - {None} == {0.0}
    assert last_known(lines, "unrolls_checked") > 100
    assert last_known(lines, "num_envs") == 12
