"""The training step, in a thread of its own: unrolls in, weights out."""

from __future__ import annotations

import copy
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from seed.config.schema import Config
from seed.contract import Algorithm
from seed.contract.loading import optional_update_target
from seed.device.graphs import can_capture
from seed.device.names import prepare_thread
from seed.learner import checkpoint
from seed.learner.checkpoint import CheckpointError, SaveReplay
from seed.learner.divergence import UpdateGuard, find_extremes
from seed.learner.optimizers import linear_learning_rate, make_optimizer
from seed.learner.saving import Saver
from seed.learner.sources import Batch, BatchSource
from seed.learner.update import Update, UpdateResult
from seed.process.phases import Phases
from seed.store.weights import WeightSlot

log = logging.getLogger(__name__)

_WAIT_TIMEOUT_S = 0.1
# Finite gradients seldom make weights that are not: reading all of them each time costs too much.
_CHECK_WEIGHTS_EVERY_UPDATES = 100
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
    """Owns the learning network and its optimizer.

    Other threads may read `learner_steps`, `updates_skipped`, `checkpoints_failed`, `ended_at`,
    `complete`, `phases` and the queue `records`. The phase "waiting" includes inserting into replay
    what has come meanwhile. On a GPU, phases are of the host: work that it does not wait for counts
    where it waits next.

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
        self.learner_steps = 0
        # Of the checkpoint that was written at the end.
        self.ended_at: Progress | None = None
        self.records: queue.SimpleQueue[UpdateRecord] = queue.SimpleQueue()
        self.phases = Phases()
        self._config = config
        self._agent = agent
        self._source = source
        self._slot = slot
        self._progress = progress
        self._kept_state = kept_state
        self._server_of = server_of
        self._device = next(agent.parameters()).device
        self._optimizer = make_optimizer(
            agent.parameters(),
            config.optimizer,
            capturable=config.learner.cuda_graphs and can_capture(self._device),
        )
        self._update_target = optional_update_target(algorithm)
        # The same weights, never trained.
        self._target = copy.deepcopy(agent).requires_grad_(False) if self._update_target else None
        self._modules = {"agent": agent}
        if self._target is not None:
            self._modules["target"] = self._target
        self._update = Update(config, algorithm, agent, self._target, self._optimizer)
        self._guard = UpdateGuard()
        self._told_of_clipping = False
        self._saver = Saver(
            config, self._modules, self._optimizer, self._guard, self.phases, save_replay, hold
        )

    @property
    def complete(self) -> bool:
        """Whether the checkpoint at the end has all frames of the run."""
        ended, total = self.ended_at, self._config.total_env_frames
        return ended is not None and self._frames(ended) >= total

    @property
    def updates_skipped(self) -> int:
        """Updates that were skipped because loss or gradient were NaN or infinite."""
        return self._guard.skipped

    @property
    def checkpoints_failed(self) -> int:
        """Checkpoints that could not be written."""
        return self._saver.failed

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
        for name, module in self._modules.items():
            checkpoint.unpack_module(loaded.tensors, name, module)
        checkpoint.unpack_optimizer(loaded.tensors, self._optimizer)
        self.learner_steps = loaded.state["learner_steps"]
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
        while not stop.is_set() and self._env_frames() < self._config.total_env_frames:
            self._learn_once()
            self._saver.save_if_due(lambda: self._state(self._progress()))
        self.ended_at = self._save()
        self.phases.leave()

    def _save(self) -> Progress:
        """Writes a checkpoint; returns how far the run is in it."""
        progress = dataclasses.replace(self._progress(), learner_steps=self.learner_steps)
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

    def _env_frames(self) -> int:
        return self._frames(self._progress())

    def _learn_once(self) -> None:
        """One update, or a short wait where there are not enough unrolls yet."""
        asked_s = time.monotonic()
        self.phases.enter("waiting")
        ready = self._source.wait(_WAIT_TIMEOUT_S)
        began_s = time.monotonic()
        scalars = self._learn() if ready else {}
        busy_s = time.monotonic() - began_s if ready else 0.0
        self.phases.enter("bookkeeping")
        scalars |= self._source.scalars()
        self.records.put(UpdateRecord(scalars, began_s - asked_s, busy_s))
        if ready:
            self._slot.end_round()

    def _learn(self) -> dict[str, float]:
        """One update from one batch; returns the metrics, none where it was skipped."""
        self.phases.enter("gather")
        batch = self._source.next_batch()
        rate = linear_learning_rate(
            self._config.optimizer, self._env_frames() / self._config.total_env_frames
        )
        self._update.load(batch.unroll)
        self.phases.enter("loss")
        result = self._update.backward()
        if not self._accepts(batch, result):
            self._update.discard()
            return {}
        lag = self.learner_steps - result.scalars.pop("policy_version_mean")
        self.phases.enter("optimizer")
        self._update.step(rate)
        self.learner_steps += 1
        self.phases.enter("bookkeeping")
        self._pass_on(batch, result)
        return {"learning_rate": rate, **result.scalars, "policy_lag_mean": lag}

    def _accepts(self, batch: Batch, result: UpdateResult) -> bool:
        """Whether the weights may change by this gradient; says once where rewards are clipped."""
        find = partial(find_extremes, self._update.unroll, batch.env_ids, self._server_of)
        if not self._guard.accepts(self.learner_steps + 1, result.scalars, find):
            return False
        if result.scalars.get(_CLIPPED, 0.0) > 0 and not self._told_of_clipping:
            self._told_of_clipping = True
            log.info(
                "rewards beyond ±algorithm.reward_clip = %g arrive and are clipped to it; 0 learns "
                "from them as they are (the share of them is the metric %s)",
                self._config.algorithm.reward_clip, _CLIPPED,
            )  # fmt: skip
        return True

    def _pass_on(self, batch: Batch, result: UpdateResult) -> None:
        """What follows from an update: priorities, target network and, now and then, weights."""
        if self.learner_steps % _CHECK_WEIGHTS_EVERY_UPDATES == 0:
            self._guard.check({"agent": self._agent})
        if batch.numbers is not None and result.priorities is not None:
            self._source.update_priorities(batch.numbers, result.priorities)
        if self._update_target is not None and self._target is not None:
            self._update_target(
                self._agent, self._target, self.learner_steps, self._config.algorithm
            )
        if self.learner_steps % self._config.learner.publish_every_updates == 0:
            self.phases.enter("publish")
            self.publish()
