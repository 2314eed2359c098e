"""The training step, in a thread of its own: unrolls in, weights out."""

from __future__ import annotations

import copy
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from seed.config.schema import Config
from seed.contract import Algorithm
from seed.contract.loading import acting_part, optional_update_target
from seed.device.graphs import can_capture
from seed.device.names import prepare_thread
from seed.learner import checkpoint
from seed.learner.batch_updates import BatchResult, BatchUpdates, Rate, find_groups
from seed.learner.checkpoint import CheckpointError, SaveReplay
from seed.learner.optimizers import (
    learning_rate_fraction,
    linear_learning_rate,
    make_optimizer,
)
from seed.learner.saving import Saver
from seed.learner.sources import Batch, BatchSource
from seed.process.phases import Phases
from seed.store.weights import WeightSlot

log = logging.getLogger(__name__)

_WAIT_TIMEOUT_S = 0.1
# A metric that algorithms with a `reward_clip` have.
_CLIPPED = "reward_clipped_share"


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


@dataclasses.dataclass(frozen=True)
class Round:
    """A batch, and all that is decided with it: nothing that follows reads what goes on meanwhile.

    Attributes:
        batch: What is learned from.
        progress: How far the run was when the batch came.
        stop: Whether the run ends with this batch.
        save: Whether a checkpoint follows it.
    """

    batch: Batch
    progress: Progress
    stop: bool
    save: bool


class UpdateRecord(NamedTuple):
    """The updates from one batch, for the metrics.

    Attributes:
        scalars: The algorithm's metrics and the learner's own, by name.
        wait_s: Seconds that the learner waited for this batch.
        busy_s: Seconds that its updates took.
        reached: In lock-step, how far the run is with this batch; None elsewhere, and of a wait
            that brought none.
    """

    scalars: dict[str, float]
    wait_s: float
    busy_s: float
    reached: Progress | None = None


class Learner:
    """Owns the learning network and its optimizer.

    Other threads may read `learner_steps`, `updates_skipped`, `unrolls_left_out`,
    `checkpoints_failed`, `ended_at`, `complete`, `phases` and the queue `records`. The phase
    "waiting" includes inserting into replay what has come meanwhile. On a GPU, phases are of the
    host: work that it does not wait for counts where it waits next.

    This thread writes checkpoints too, between updates, so that they are of one moment. Only the
    last one of a run has to be written.
    """

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        agent: nn.Module,
        source: BatchSource,
        slot: WeightSlot,
        progress: Callable[[], Progress],
        kept_state: dict[str, Any],
        save_replay: SaveReplay | None = None,
        hold: Callable[[], bool] = lambda: False,
        server_of: Callable[[int], str] = lambda env_id: "",
    ) -> None:
        """The agent is this object's own from here on, on the learner's device.

        Args:
            config: The run.
            algorithm: Its loss.
            agent: The network to train.
            source: Where batches come from.
            slot: Where new weights go.
            progress: Steps and time so far, of this and earlier processes; thread-safe. The
                updates in it are ignored.
            kept_state: Written into every checkpoint as it is.
            save_replay: Writes the replay into a folder of every checkpoint.
            hold: Called before each checkpoint; returns whether the run's folder had to be made
                anew. Raises where it is no longer this process's own, OSError where it cannot tell.
            server_of: Names the environment server of an env_id, for messages; thread-safe.
        """
        # Of the checkpoint that was written at the end.
        self.ended_at: Progress | None = None
        self.records: queue.SimpleQueue[UpdateRecord] = queue.SimpleQueue()
        self.phases = Phases()
        self._config = config
        self._agent = agent
        self._acting = acting_part(algorithm, agent)
        self._source = source
        self._slot = slot
        self._progress = progress
        self._kept_state = kept_state
        self._device = next(agent.parameters()).device
        self._optimizer = make_optimizer(
            find_groups(algorithm, config, agent),
            config.optimizer,
            capturable=config.learner.cuda_graphs and can_capture(self._device),
        )
        # The same weights, never trained.
        has_target = optional_update_target(algorithm) is not None
        target = copy.deepcopy(agent).requires_grad_(False) if has_target else None
        self._modules = {"agent": agent}
        if target is not None:
            self._modules["target"] = target
        self._updates = BatchUpdates(
            config, algorithm, agent, target, self._optimizer, self.phases, server_of
        )
        self._told_of_clipping = False
        self._saver = Saver(
            config, self._modules, self._optimizer, self._updates.guard, self.phases, save_replay,
            hold,
        )  # fmt: skip
        # In lock-step, where the last round was; else where the environments are by now counts.
        self._reached = progress()
        self._published_steps = 0

    @property
    def learner_steps(self) -> int:
        """Updates so far, over all processes of the run."""
        return self._updates.learner_steps

    @property
    def complete(self) -> bool:
        """Whether the checkpoint at the end has all frames of the run."""
        ended, total = self.ended_at, self._config.total_env_frames
        return ended is not None and self._frames(ended) >= total

    @property
    def updates_skipped(self) -> int:
        """Updates that were skipped because loss or gradient were NaN or infinite."""
        return self._updates.guard.skipped

    @property
    def unrolls_left_out(self) -> int:
        """Unrolls that were left out of their batches as their own loss was NaN or infinite."""
        return self._updates.unrolls_left_out

    @property
    def checkpoints_failed(self) -> int:
        """Checkpoints that could not be written."""
        return self._saver.failed

    def publish(self) -> None:
        """Hands the present weights to inference."""
        self._slot.publish(self.learner_steps, self._acting)
        self._published_steps = self.learner_steps

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
        for name, module in self._modules.items():
            checkpoint.unpack_module(loaded.tensors, name, module)
        checkpoint.unpack_optimizer(loaded.tensors, self._agent, self._optimizer)
        self._updates.learner_steps = loaded.state["learner_steps"]
        self._saver.newest = loaded.path

    def forget_checkpoints(self) -> None:
        """Those that were written are gone: the next comes as early as the first; thread-safe."""
        self._saver.newest = None

    def run(self, stop: threading.Event) -> None:
        """Learns until the run's frames are reached or `stop` is set; leaves a checkpoint.

        Raises:
            Diverged: where nothing can be learned any more; without a checkpoint.
            SaveFailed: where the checkpoint at the end could not be written.
        """
        prepare_thread(self._device, self._config.learner.threads, urgent=False)
        while not stop.is_set() and not self._is_past_end(self._now()):
            self._learn_once()
        self.ended_at = self._save()
        self.phases.leave()

    def _now(self) -> Progress:
        """How far the run is between batches.

        In lock-step as far as its last batch, whatever inference has begun since.
        """
        now = self._progress()
        if self._source.lockstep:
            now = dataclasses.replace(now, env_steps=self._reached.env_steps)
        return dataclasses.replace(now, learner_steps=self.learner_steps)

    def _is_past_end(self, progress: Progress) -> bool:
        return self._frames(progress) >= self._config.total_env_frames

    def _save(self) -> Progress:
        """Writes a checkpoint; returns how far the run is in it."""
        progress = self._now()
        self._saver.save(self._state(progress))
        return progress

    def _state(self, progress: Progress) -> dict[str, Any]:
        """All that a checkpoint holds and that is no tensor."""
        return {
            **self._kept_state,
            **dataclasses.asdict(progress),
            "learner_steps": self.learner_steps,
            "optimizer": self._config.optimizer.kind,
            "env_frames": self._frames(progress),
        }

    def _frames(self, progress: Progress) -> int:
        return progress.env_steps * self._config.environment.frames_per_env_step

    def _learn_once(self) -> None:
        """The updates from one batch, or a short wait where there are not enough unrolls yet."""
        asked_s = time.monotonic()
        self.phases.enter("waiting")
        ready = self._source.wait(_WAIT_TIMEOUT_S)
        began_s = time.monotonic()
        scalars, busy_s, goes_on, reached = {}, 0.0, False, None
        if ready:
            self.phases.enter("gather")
            round_ = self._begin_round(self._source.next_batch())
            scalars = self._learn(round_)
            busy_s = time.monotonic() - began_s
            self._publish_and_save(round_)
            goes_on = not round_.stop
            reached = self._now() if self._source.lockstep else None
        elif self._saver.is_due():
            self._saver.try_to_save(self._state(self._now()))
        self.phases.enter("bookkeeping")
        scalars |= self._source.scalars()
        self.records.put(UpdateRecord(scalars, began_s - asked_s, busy_s, reached))
        if goes_on:
            # Last of all: in lock-step inference goes on then.
            self._slot.end_round()

    def _begin_round(self, batch: Batch) -> Round:
        """Decides all that depends on how far the run is; in lock-step the batch says it."""
        progress = self._progress()
        if batch.env_steps is not None:
            progress = dataclasses.replace(progress, env_steps=batch.env_steps)
        self._reached = progress
        stop = self._is_past_end(progress)
        # A run that ends saves in any case.
        return Round(batch, progress, stop, save=not stop and self._saver.is_due())

    def _learn(self, round_: Round) -> dict[str, float]:
        """The updates from a batch; returns the metrics, none where it was skipped."""
        optimizer, batch = self._config.optimizer, round_.batch
        share = self._frames(round_.progress) / self._config.total_env_frames
        rate = Rate(
            linear_learning_rate(optimizer, share), learning_rate_fraction(optimizer, share)
        )
        result = self._updates.learn(batch, rate)
        if not result.scalars:
            return {}
        self._update_priorities(batch, result)
        self._tell_of_clipping(result.scalars)
        return {"learning_rate": rate.learning_rate, **result.scalars}

    def _update_priorities(self, batch: Batch, result: BatchResult) -> None:
        if batch.numbers is None or result.priorities is None:
            return
        kept = result.kept.numpy()
        self._source.update_priorities(batch.numbers[kept], result.priorities)
        if len(left_out := np.delete(batch.numbers, kept)):
            # So that they hardly ever come again.
            self._source.update_priorities(left_out, torch.zeros(len(left_out)))

    def _tell_of_clipping(self, scalars: dict[str, float]) -> None:
        """Says once that rewards are clipped."""
        if scalars.get(_CLIPPED, 0.0) > 0 and not self._told_of_clipping:
            self._told_of_clipping = True
            log.info(
                "rewards beyond ±algorithm.reward_clip = %g arrive and are clipped to it; 0 learns "
                "from them as they are (the share of them is the metric %s)",
                self._config.algorithm.reward_clip, _CLIPPED,
            )  # fmt: skip

    def _publish_and_save(self, round_: Round) -> None:
        """What follows from a batch, whether there were updates or it was skipped."""
        if self._source.lockstep:
            # Nobody acts meanwhile: what is saved is what the next round acts with.
            self._save_round(round_)
            self._publish_if_due()
        else:
            self._publish_if_due()
            self._save_round(round_)

    def _publish_if_due(self) -> None:
        since = self.learner_steps - self._published_steps
        if since >= self._config.learner.publish_every_updates:
            self.phases.enter("publish")
            self.publish()

    def _save_round(self, round_: Round) -> None:
        if round_.save:
            self._saver.try_to_save(self._state(round_.progress))
