"""A learner with a network of one weight, on batches that a test makes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
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
from seed.learner.sources import Batch
from seed.store.rows import Rows, Unroll
from seed.store.weights import WeightSlot
from seed.wire.arrays import Int64Array

Kind = Literal["rmsprop_tf", "adam"]
BATCH = 2
FRAMES_PER_STEP = 2


def make_batch(
    observation: float, versions: Sequence[int] = (0, 0), burn_in: int = 0,
    numbers: list[int] | None = None,
) -> Batch:  # fmt: skip
    """Unrolls whose rows, as many as there are versions, all have this observation."""
    acted = torch.tensor(versions)[:, None].repeat(1, BATCH)
    flags, blank = torch.zeros_like(acted, dtype=torch.bool), torch.zeros_like(acted)
    observations = torch.full_like(acted, observation, dtype=torch.float32)
    rows = Rows({"": observations}, blank, blank.float(), flags, flags, flags)
    unroll = Unroll(rows, blank, {}, acted, torch.zeros(BATCH, 0), torch.ones(BATCH), burn_in)
    return Batch(unroll, list(range(BATCH)), None if numbers is None else np.array(numbers))


class Given:
    """A source of the batches that a test gives it."""

    lockstep = False

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.updates: list[tuple[list[int], list[float]]] = []

    def wait(self, timeout_s: float) -> bool:
        return bool(self.batches)

    def next_batch(self) -> Batch:
        return self.batches.pop(0)

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        self.updates.append((numbers.tolist(), priorities.tolist()))

    def scalars(self) -> dict[str, float]:
        return {"left": float(len(self.batches))}


class Noting(WeightSlot):
    """A slot that remembers the versions it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[int] = []

    def publish(self, version: int, module: nn.Module) -> None:
        self.versions.append(version)
        super().publish(version, module)


class Setup:
    """A learner whose every update stands for 10 steps."""

    def __init__(
        self, run_dir: Path, config: Config | None = None, *batches: Batch | float,
        env_steps: int = 0, save_replay: checkpoint.SaveReplay | None = None,
    ) -> None:  # fmt: skip
        self.config = replace(config or make_config(), run_dir=str(run_dir))
        self.env_steps = env_steps
        self.metrics: dict[str, Tensor] = {}
        self.on_loss: Callable[[Tensor], Tensor] = lambda loss: loss
        self.targets: list[nn.Module | None] = []
        self.agent = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.agent.weight)
        self.source, self.slot = Given(), Noting()
        self.feed(*batches)
        self.checkpoints = run_dir / "checkpoints"
        self.learner = Learner(
            self.config, cast(Algorithm, self), self.agent, self.source, self.slot,
            lambda: Progress(self.env_steps, 99, 1.5), {"spaces": "kept"}, save_replay,
            server_of=lambda env_id: f"host:{env_id}",
        )  # fmt: skip

    def feed(self, *batches: Batch | float) -> None:
        """Batches, or observations of which to make them."""
        self.source.batches += [
            batch if isinstance(batch, Batch) else make_batch(batch) for batch in batches
        ]

    def loss(
        self, agent: nn.Module, target: nn.Module | None, unroll: Unroll, config: Any
    ) -> LossResult:
        """The mean of observations times the weight: its gradient is the observations' mean."""
        assert config == self.config.algorithm
        # What a single unroll's own loss is stands for no steps.
        self.env_steps += 10 * (len(unroll.importance) == BATCH)
        self.targets.append(target)
        observations = unroll.rows.observations[""]
        loss = agent(observations.mean()[None, None]).sum()
        metrics = {"seen": observations.mean(), **self.metrics}
        return LossResult(self.on_loss(loss), metrics, observations.sum(dim=0))

    def learn(self, times: int = 1) -> None:
        for _ in range(times):
            self.learner._learn_once()

    def run(self, *, stopped: bool = False) -> list[UpdateRecord]:
        """Until the frames are reached; returns the records of the updates that were made."""
        stop = threading.Event()
        if stopped:
            stop.set()
        self.learner.run(stop)
        return self.records()

    def records(self) -> list[UpdateRecord]:
        queued = self.learner.records
        records = [queued.get() for _ in range(queued.qsize())]
        return [record for record in records if "loss" in record.scalars]

    def newest(self) -> checkpoint.Checkpoint:
        loaded = checkpoint.load_newest(self.checkpoints)
        assert loaded is not None
        return loaded

    def packed(self) -> dict[str, Tensor]:
        """Copies of what a checkpoint would keep now."""
        packed = checkpoint.pack({"agent": self.agent}, self.learner._optimizer)
        return {name: tensor.clone() for name, tensor in packed.items()}

    @property
    def weight(self) -> float:
        return self.agent.weight.item()


class Targeting(Setup):
    """Its target follows the agent at every second update."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.calls: list[tuple[int, Any, float, float]] = []
        super().__init__(*arguments, **named)

    def update_target(
        self, agent: nn.Module, target: nn.Module, learner_steps: int, config: Any
    ) -> None:
        weights = [next(module.parameters()).item() for module in (agent, target)]
        self.calls.append((learner_steps, config, weights[0], weights[1]))
        if learner_steps % 2 == 0:
            target.load_state_dict(agent.state_dict())


def make_config(env_steps: int = 10**6, *, interval_s: float = 3600.0, **optimizer: Any) -> Config:
    """A run of so many steps."""
    return Config(
        total_env_frames=env_steps * FRAMES_PER_STEP,
        checkpoint_interval_s=interval_s,
        environment=EnvironmentConfig(kind="function", frames_per_step=FRAMES_PER_STEP),
        learner=LearnerConfig(batch_size=BATCH, device="cpu"),
        optimizer=OptimizerConfig(
            **{"learning_rate": 0.1, "final_learning_rate_fraction": 1.0, **optimizer}
        ),
    )


def with_learner(config: Config, **learner: Any) -> Config:
    return replace(config, learner=replace(config.learner, **learner))
