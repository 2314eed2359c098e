"""A learner with a network of one weight, on unrolls that a test writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from seed.config.schema import Config, EnvironmentConfig, LearnerConfig, OptimizerConfig
from seed.contract import Algorithm, LossResult
from seed.learner import checkpoint
from seed.learner.loop import Learner, Progress, UpdateRecord
from seed.learner.sources import QueueSource
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Arrivals, Unroll
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from tests.seed.writing import place_and_fill

Kind = Literal["rmsprop_tf", "adam"]
CPU = torch.device("cpu")
BATCH, LENGTH = 2, 2
LAYOUT = StoreLayout(
    LENGTH, num_pages=200, max_envs=BATCH, frame_stack=1, state_size=0,
    observation=Column((), torch.float32), action=Column((), torch.int64),
    behaviour={"said": Column((), torch.float32)},
)  # fmt: skip
FRAMES_PER_STEP = 2


class Noting(WeightSlot):
    """A slot that remembers the versions it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[int] = []

    def publish(self, version: int, module: nn.Module) -> None:
        self.versions.append(version)
        super().publish(version, module)


class Setup:
    """A learner whose every update stands for 10 steps, on unrolls that a test writes."""

    def __init__(self, run_dir: Path, config: Config | None = None, env_steps: int = 0) -> None:
        self.config = config or make_config()
        self.config = replace(self.config, run_dir=str(run_dir))
        self.env_steps = env_steps
        self.metrics: dict[str, Tensor] = {}
        self.on_loss: Callable[[Tensor], Tensor] = lambda loss: loss
        self.agent = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.agent.weight)
        self.store, self.slot = UnrollStore(LAYOUT, CPU), Noting()
        self.checkpoints = run_dir / "checkpoints"
        self.learner = Learner(
            self.config, cast(Algorithm, self), self.agent,
            QueueSource(self.store, BATCH), self.slot,
            lambda: Progress(self.env_steps, 99, 1.5), {"spaces": "kept"},
            server_of=lambda env_id: f"host:{env_id}",
        )  # fmt: skip

    def loss(self, agent: nn.Module, target: None, unroll: Unroll, config: Any) -> LossResult:
        """The mean of observations times the weight: its gradient is the observations' mean."""
        assert (target, config) == (None, self.config.algorithm)
        self.env_steps += 10
        mean = agent(unroll.rows.observations.mean()[None, None]).sum()
        metrics = {"seen": unroll.rows.observations.mean(), **self.metrics}
        return LossResult(self.on_loss(mean), metrics)

    def feed(self, observations: list[float], policy_version: int = 0) -> None:
        """Writes the unrolls of one update for each observation."""
        env_ids, run_ids = np.arange(BATCH), np.ones(BATCH, np.uint64)
        for index in range(len(observations) * LENGTH + 1):
            value = observations[min(index // LENGTH, len(observations) - 1)]
            flags = torch.zeros(BATCH, dtype=torch.bool)
            arrived = Arrivals(torch.full((BATCH,), value), torch.zeros(BATCH), flags, flags)
            first = np.zeros(BATCH, np.bool_)
            row_index, complete = place_and_fill(self.store, env_ids, run_ids, first, arrived)
            self.store.write_actions(
                row_index, torch.zeros(BATCH, dtype=torch.int64), {"said": torch.zeros(BATCH)},
                torch.zeros(BATCH, 0), torch.tensor(policy_version, dtype=torch.int32),
            )  # fmt: skip
            self.store.publish(complete)
        self.store.drop(env_ids)

    def records(self) -> list[UpdateRecord]:
        queued = self.learner.records
        records = [queued.get() for _ in range(queued.qsize())]
        return [record for record in records if record.scalars]

    @property
    def weight(self) -> float:
        return self.agent.weight.item()


def make_config(**optimizer: Any) -> Config:
    return Config(
        environment=EnvironmentConfig(kind="function", frames_per_step=FRAMES_PER_STEP),
        learner=LearnerConfig(unroll_length=LENGTH, batch_size=BATCH, device="cpu"),
        optimizer=OptimizerConfig(
            **{"learning_rate": 0.1, "final_learning_rate_fraction": 1.0, **optimizer}
        ),
    )


def total(config: Config, env_steps: int) -> Config:
    return replace(config, total_env_frames=env_steps * FRAMES_PER_STEP)


def with_learner(config: Config, **learner: Any) -> Config:
    return replace(config, learner=replace(config.learner, **learner))


def run(setup: Setup) -> list[UpdateRecord]:
    setup.learner.run(threading.Event())
    return setup.records()


def loaded_newest(setup: Setup) -> checkpoint.Checkpoint:
    loaded = checkpoint.load_newest(setup.checkpoints)
    assert loaded is not None
    return loaded
