"""The training step, in a thread of its own: unrolls in, weights out."""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seed import checkpoint
from seed.checkpoint import CheckpointError
from seed.config import Config
from seed.contract import Algorithm
from seed.devices import prepare_thread
from seed.optimizers import linear_learning_rate, make_optimizer
from seed.unrolls import Unroll, UnrollStore
from seed.weights import WeightSlot

_TAKE_TIMEOUT_S = 0.1


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come, over all its restarts.

    Attributes:
        env_steps: Steps of all environments.
        learner_steps: Updates.
        time_s: Seconds spent running.
    """

    env_steps: int = 0
    learner_steps: int = 0
    time_s: float = 0.0


class Diverged(Exception):
    """The loss or its gradient is no finite number; no weight has been touched by it."""


class UpdateRecord(NamedTuple):
    """One update, for the metrics.

    Attributes:
        scalars: The algorithm's metrics and the learner's own, by name.
        wait_s: Seconds that the learner waited for this update's data.
        busy_s: Seconds that the update took.
    """

    scalars: dict[str, float]
    wait_s: float
    busy_s: float


class Learner:
    """Owns the learning network and its optimizer; other threads read `learner_steps`, `records`.

    Checkpoints are written between updates, by this thread, so that they are of one moment.
    """

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        agent: nn.Module,
        store: UnrollStore,
        slot: WeightSlot,
        progress: Callable[[], Progress],
        kept_state: dict[str, Any],
    ) -> None:
        """The agent is this object's own from here on, on the learner's device.

        Args:
            config: The run.
            algorithm: Its loss.
            agent: The network to train.
            store: Where unrolls come from.
            slot: Where new weights go.
            progress: Steps and time so far, of this and earlier processes; thread-safe.
            kept_state: Written into every checkpoint as it is.
        """
        self.learner_steps = 0
        self.records: queue.SimpleQueue[UpdateRecord] = queue.SimpleQueue()
        self._config = config
        self._algorithm = algorithm
        self._agent = agent
        self._store = store
        self._slot = slot
        self._progress = progress
        self._kept_state = kept_state
        self._device = next(agent.parameters()).device
        self._optimizer = make_optimizer(agent.parameters(), config.optimizer)
        self._frames_per_step = config.environment.frames_per_env_step
        self._checkpoints = Path(config.run_dir) / "checkpoints"
        self._saved_s = time.monotonic()

    def publish(self) -> None:
        """Hands the present weights to inference."""
        self._slot.publish(self.learner_steps, self._agent)

    def restore(self, loaded: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointError: where it is of another network or another kind of optimizer.
        """
        kind = loaded.state.get("optimizer")
        if kind != self._config.optimizer.kind:
            raise CheckpointError(
                f"the checkpoint's optimizer is {kind!r}, optimizer.kind = "
                f"{self._config.optimizer.kind!r}: keep the kind, or choose another run_dir"
            )
        checkpoint.unpack_agent(loaded.tensors, self._agent)
        checkpoint.unpack_optimizer(loaded.tensors, self._optimizer)
        self.learner_steps = loaded.state["learner_steps"]

    def run(self, stop: threading.Event) -> None:
        """Learns until the run's frames are reached or `stop` is set; leaves a checkpoint."""
        prepare_thread(self._device, self._config.learner.threads, urgent=False)
        while not stop.is_set() and self._env_frames() < self._config.total_env_frames:
            self._learn_once()
            self._save_if_due()
        self._save()

    def _env_frames(self) -> int:
        return self._progress().env_steps * self._frames_per_step

    def _learn_once(self) -> None:
        """One update, or a short wait where there are not enough unrolls yet."""
        asked_s = time.monotonic()
        pages = self._store.take(self._config.learner.batch_size, _TAKE_TIMEOUT_S)
        if pages is None:
            self.records.put(UpdateRecord({}, time.monotonic() - asked_s, 0.0))
            return
        began_s = time.monotonic()
        unroll = self._store.gather(pages)
        if self._store.device.type == "cuda":
            # Pages may be written again once released: the copies must be complete.
            torch.cuda.current_stream(self._store.device).synchronize()
        self._store.release(pages)
        scalars = self._update(move(unroll, self._device))
        self.records.put(UpdateRecord(scalars, began_s - asked_s, time.monotonic() - began_s))

    def _update(self, unroll: Unroll) -> dict[str, float]:
        """One gradient step; returns the metrics."""
        rate = linear_learning_rate(
            self._config.optimizer, self._env_frames() / self._config.total_env_frames
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        result = self._algorithm.loss(self._agent, None, unroll, self._config.algorithm)
        self._optimizer.zero_grad()
        result.loss.backward()  # type: ignore[no-untyped-call]
        limit = self._config.optimizer.clip_norm or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(self._agent.parameters(), limit)
        measured = {"loss": result.loss.detach(), "grad_norm": grad_norm, **result.metrics}
        scalars = _to_floats(measured)
        if not math.isfinite(scalars["loss"]) or not math.isfinite(scalars["grad_norm"]):
            raise Diverged(
                f"update {self.learner_steps + 1}: the loss is {scalars['loss']}, the gradient's "
                f"norm {scalars['grad_norm']}; the newest checkpoint is from before. Try a "
                "smaller optimizer.learning_rate or optimizer.clip_norm"
            )
        self._optimizer.step()
        self.learner_steps += 1
        if self.learner_steps % self._config.learner.publish_every_updates == 0:
            self.publish()
        lag = self.learner_steps - 1 - unroll.policy_versions[:-1].float().mean()
        return {"learning_rate": rate, **scalars, "policy_lag_mean": lag.item()}

    def _save_if_due(self) -> None:
        if time.monotonic() >= self._saved_s + self._config.checkpoint_interval_s:
            self._save()

    def _save(self) -> None:
        progress = self._progress()
        env_frames = progress.env_steps * self._frames_per_step
        state = {
            **self._kept_state,
            **dataclasses.asdict(progress),
            "learner_steps": self.learner_steps,
            "optimizer": self._config.optimizer.kind,
            "env_frames": env_frames,
        }
        packed = checkpoint.pack(self._agent, self._optimizer)
        checkpoint.save(
            self._checkpoints,
            checkpoint.name_of(env_frames, self.learner_steps),
            checkpoint.Checkpoint(packed, state),
            keep=self._config.keep_checkpoints,
        )
        self._saved_s = time.monotonic()


def _to_floats(scalars: dict[str, Tensor]) -> dict[str, float]:
    """All values in one transfer from the device."""
    stacked = torch.stack([value.float() for value in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))


def move(value: Any, device: torch.device) -> Any:
    """The same dataclass or dictionary with its tensors on the device."""
    if isinstance(value, Tensor):
        # Towards the CPU nothing would wait for the copy before it is read.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    fields = {f.name: move(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    return type(value)(**fields)
