"""What the training step does for algorithms with replay: target network, priorities, burn-in."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import Config, EnvironmentConfig, OptimizerConfig
from seed.contract import LossResult
from seed.learner import checkpoint
from seed.learner.checkpoint import CheckpointError
from seed.learner.divergence import Diverged
from seed.learner.loop import Learner, Progress, UpdateRecord
from seed.learner.sources import Batch
from seed.store.rows import Rows, Unroll
from seed.store.weights import WeightSlot
from seed.wire.arrays import Int64Array

CONFIG = Config(
    total_env_frames=30,
    environment=EnvironmentConfig(kind="function"),
    optimizer=OptimizerConfig(
        kind="rmsprop_tf", learning_rate=0.5, final_learning_rate_fraction=1.0, epsilon=1.0
    ),
    algorithm="the algorithm's own",
)


def make_batch(
    observation: float, versions: list[int] | None = None, burn_in: int = 0,
    numbers: list[int] | None = None,
) -> Batch:  # fmt: skip
    """Two unrolls whose rows, as many as there are versions, all have this observation."""
    acted = torch.tensor(versions or [0, 0])[:, None].expand(-1, 2)
    flags = torch.zeros_like(acted, dtype=torch.bool)
    blank = torch.zeros_like(acted)
    observations = torch.full_like(acted, observation, dtype=torch.float32)
    rows = Rows(observations, blank, blank.float(), flags, flags, flags)
    unroll = Unroll(rows, blank, {}, acted, torch.zeros(2, 0), torch.ones(2), burn_in)
    return Batch(unroll, [0, 1], None if numbers is None else np.array(numbers))


class Given:
    """A source of the batches that a test gives it."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.updates: list[tuple[list[int], list[float]]] = []

    def wait(self, timeout_s: float) -> bool:
        return bool(self.batches)

    def next_batch(self) -> Batch:
        return self.batches.pop(0)

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        self.updates.append((numbers.tolist(), priorities.tolist()))

    def scalars(self) -> dict[str, float]:
        return {"left": float(len(self.batches))}


class Setup:
    """A learner that makes an update of 10 frames of each given batch."""

    def __init__(self, run_dir: Path, *batches: Batch, save_replay: Any = None) -> None:
        self.env_steps = 0
        self.targets: list[nn.Module | None] = []
        self.agent = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.agent.weight)
        self.source = Given(list(batches))
        self.checkpoints = run_dir / "checkpoints"
        algorithm: Any = self
        self.learner = Learner(
            replace(CONFIG, run_dir=str(run_dir)), algorithm, self.agent, self.source, WeightSlot(),
            lambda: Progress(self.env_steps, 0, 0.0), {}, save_replay,
        )  # fmt: skip

    def loss(
        self, agent: nn.Module, target: nn.Module | None, unroll: Unroll, config: str
    ) -> LossResult:
        """The weight times the observations' mean."""
        assert config == CONFIG.algorithm
        self.env_steps += 10
        self.targets.append(target)
        observations = unroll.rows.observations
        return LossResult(agent(observations.mean()[None]).sum(), {}, observations.sum(dim=0))

    def run(self) -> list[UpdateRecord]:
        self.learner.run(threading.Event())
        records = self.learner.records
        return [records.get() for _ in range(records.qsize())]

    def newest(self) -> checkpoint.Checkpoint:
        loaded = checkpoint.load_newest(self.checkpoints)
        assert loaded is not None
        return loaded


class Targeting(Setup):
    """Its target follows the agent at every second update."""

    def __init__(self, run_dir: Path, *batches: Batch) -> None:
        self.calls: list[tuple[int, str, float, float]] = []
        super().__init__(run_dir, *batches)

    def update_target(
        self, agent: nn.Module, target: nn.Module, learner_steps: int, config: str
    ) -> None:
        weights = [next(module.parameters()).item() for module in (agent, target)]
        self.calls.append((learner_steps, config, weights[0], weights[1]))
        if learner_steps % 2 == 0:
            target.load_state_dict(agent.state_dict())


def weight(module: nn.Module | None) -> float:
    assert module is not None
    return next(module.parameters()).item()


def test_without_update_target_there_is_no_target_network(tmp_path: Path) -> None:
    setup = Setup(tmp_path, *[make_batch(1.0)] * 3)
    setup.run()
    assert setup.targets == [None] * 3
    assert not any(name.startswith("target") for name in setup.newest().tensors)


def test_the_target_is_a_copy_that_is_never_trained(tmp_path: Path) -> None:
    setup = Targeting(tmp_path, make_batch(1.0))
    target = setup.learner._target
    assert target is not None
    assert weight(target) == weight(setup.agent) == 1.0
    setup.learner._learn_once()
    assert setup.targets == [target]
    assert weight(setup.agent) < 0.9
    assert weight(target) == 1.0
    assert [parameter.requires_grad for parameter in target.parameters()] == [False]


def test_the_target_is_updated_after_every_update(tmp_path: Path) -> None:
    setup = Targeting(tmp_path, *[make_batch(1.0)] * 3)
    setup.run()
    steps, configs, agents, targets = zip(*setup.calls, strict=True)
    assert steps == (1, 2, 3)
    assert set(configs) == {CONFIG.algorithm}
    # The agent has made the update already; the target is still that of the loss.
    assert 1.0 > agents[0] > agents[1] > agents[2] == weight(setup.agent)
    assert targets == (1.0, 1.0, agents[1])


def test_goes_on_with_its_target(tmp_path: Path) -> None:
    setup = Targeting(tmp_path, *[make_batch(1.0)] * 3)
    setup.run()
    other = Targeting(tmp_path)
    other.learner.restore(setup.newest())
    assert weight(other.agent) == weight(setup.agent)
    assert weight(other.learner._target) == setup.calls[1][2]
    assert weight(other.learner._target) != weight(other.agent)


def test_refuses_a_checkpoint_without_target(tmp_path: Path) -> None:
    setup = Setup(tmp_path, *[make_batch(1.0)] * 3)
    setup.run()
    with pytest.raises(CheckpointError, match="of another network"):
        Targeting(tmp_path).learner.restore(setup.newest())


def test_priorities_go_back_to_where_the_unrolls_came_from(tmp_path: Path) -> None:
    setup = Setup(
        tmp_path, make_batch(1.0, numbers=[5, 9]), make_batch(3.0), make_batch(2.0, numbers=[7, 7])
    )
    setup.run()
    assert setup.source.updates == [([5, 9], [2.0, 2.0]), ([7, 7], [4.0, 4.0])]


def test_no_priorities_no_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Setup.loss

    def without(setup: Setup, *arguments: Any) -> LossResult:
        return loss(setup, *arguments)._replace(priorities=None)

    monkeypatch.setattr(Setup, "loss", without)
    setup = Setup(tmp_path, *[make_batch(1.0, numbers=[5, 9])] * 3)
    setup.run()
    assert setup.learner.learner_steps == 3
    assert setup.source.updates == []


def test_what_is_no_number_touches_no_priorities_and_no_target(tmp_path: Path) -> None:
    setup = Targeting(tmp_path, *[make_batch(math.nan, numbers=[5, 9])] * 10)
    for _ in range(9):
        setup.learner._learn_once()
    with pytest.raises(Diverged):
        setup.learner._learn_once()
    assert setup.source.updates == []
    assert setup.calls == []


def test_figures_of_the_source_are_recorded_even_while_waiting(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_batch(1.0), make_batch(1.0))
    for left in (1.0, 0.0, 0.0):
        setup.learner._learn_once()
        assert setup.learner.records.get().scalars["left"] == left


def test_policy_lag_leaves_the_burn_in_out(tmp_path: Path) -> None:
    # Neither does the row count that is only there to bootstrap from.
    old, new = make_batch(1.0, [90, 90, 0, 0, 50], burn_in=2), make_batch(1.0, [9, 1, 0, 50], 1)
    records = Setup(tmp_path, old, new, make_batch(1.0, [2, 50])).run()
    assert [record.scalars["policy_lag_mean"] for record in records] == [0.0, 0.5, 0.0]


def test_replay_is_saved_with_every_checkpoint(tmp_path: Path) -> None:
    def save(folder: Path, sign: Callable[[], None]) -> None:
        before = setup.learner.phases.heartbeats
        sign()
        assert setup.learner.phases.heartbeats == before + 1
        folder.mkdir()
        (folder / "numbers.json").write_text(str(setup.learner.learner_steps))

    setup = Setup(tmp_path, *[make_batch(1.0)] * 3, save_replay=save)
    setup.run()
    path = setup.newest().path
    assert path is not None
    found = checkpoint.find_replay(path)
    assert found is not None
    assert (found / "numbers.json").read_text() == "3"
