"""Figures of a run: gathered from the threads' records, written as JSON lines and TensorBoard.

Each line of `metrics.jsonl` covers the time since the line before; null where not yet known.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import queue
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from seed.config.schema import ConfigError
from seed.inference.loop import BatchRecord, Inference, Record, RoundRecord
from seed.learner.loop import Learner, Progress, UpdateRecord
from seed.process.phases import Phases
from seed.process.plain_files import is_at, open_to_append
from seed.store.unrolls import UnrollStore

log = logging.getLogger(__name__)

RETURN_WINDOW = 100
# Few environments evaluate: 100 of their episodes would reach far back into the training.
EVALUATION_WINDOW = 20

Line = dict[str, float | int | None]
T = TypeVar("T")


class MetricsWindow:
    """Turns records of the inference and learner threads into one line at a time.

    Owned by the main thread.

    Attributes:
        last: Where the newest line is.
    """

    def __init__(self, frames_per_step: int, start: Progress, *, lockstep: bool = False) -> None:
        """The first line's fps counts from `start`; in lock-step a line ends with a round."""
        self._frames_per_step = frames_per_step
        self.last = start
        self._lockstep = lockstep
        # How far the run was with its newest round.
        self._reached = start
        # Of the round that the learner is not done with.
        self._records: list[Record] = []
        self._returns: deque[float] = deque(maxlen=RETURN_WINDOW)
        self._lengths: deque[float] = deque(maxlen=RETURN_WINDOW)
        self._episodes = 0
        self._evaluation_returns: deque[float] = deque(maxlen=EVALUATION_WINDOW)
        self._evaluation_episodes = 0
        self._paused_s = 0.0
        # By thread and phase.
        self._phase_seconds: dict[str, dict[str, float]] = {"inference": {}, "learner": {}}
        self._scalars: Line = {}

    def close(
        self, progress: Progress, inference: Inference, learner: Learner, store: UnrollStore
    ) -> Line:
        """The line for the time since the last call."""
        updates = _drain(learner.records)
        elapsed_s = max(progress.time_s - self.last.time_s, 1e-9)
        acted_s: float = elapsed_s
        records = _drain(inference.records)
        if self._lockstep:
            reached = [update.reached for update in updates if update.reached is not None]
            records = self._up_to_round(len(reached), records)
            newest = reached[-1] if reached else self._reached
            acted_s, self._reached = newest.time_s - self._reached.time_s, newest
            progress = dataclasses.replace(newest, time_s=progress.time_s)
        batches = self._take_inference(records)
        frames = (progress.env_steps - self.last.env_steps) * self._frames_per_step
        self.last = progress
        paused_s, self._paused_s = inference.paused_s - self._paused_s, inference.paused_s
        self._scalars = dict.fromkeys(self._scalars) | _mean_scalars(updates)
        latencies_ms = [1e3 * batch.latency_s for batch in batches]
        waited_s = sum(update.wait_s for update in updates)
        busy_s = sum(update.busy_s for update in updates)
        return {
            "time_s": round(progress.time_s, 3),
            "env_frames": progress.env_steps * self._frames_per_step,
            "env_steps": progress.env_steps,
            "learner_steps": progress.learner_steps,
            # In lock-step, of the rounds that have ended; null where none has.
            "fps": frames / acted_s if acted_s > 0 else None,
            "episode_return_mean": _mean(self._returns),
            "episode_return_count": self._episodes,
            "episode_length_steps_mean": _mean(self._lengths),
            "evaluation_return_mean": _mean(self._evaluation_returns),
            "evaluation_return_count": self._evaluation_episodes,
            "policy_lag_mean": None,
            "inference_batch_mean": _mean([batch.rows for batch in batches]),
            "inference_latency_p50_ms": _percentile(latencies_ms, 50),
            "inference_latency_p99_ms": _percentile(latencies_ms, 99),
            # A pause that began before this line's time is counted in full.
            "inference_paused_share": min(paused_s / elapsed_s, 1.0),
            "updates_skipped": learner.updates_skipped,
            "unrolls_left_out": learner.unrolls_left_out,
            "checkpoints_failed": learner.checkpoints_failed,
            "learner_utilisation": busy_s / (busy_s + waited_s) if updates else None,
            "queue_length": store.num_ready,
            # Another thread may be forgetting a session, of which it forgets the faults last.
            "num_envs": max(inference.num_envs - inference.faults.num_quarantined, 0),
            "rows_dropped": store.rows_dropped,
            "messages_refused": inference.messages_refused,
            "messages_dropped": inference.messages_dropped,
            "env_faults": inference.faults.total,
            "envs_quarantined": inference.faults.num_quarantined,
            **self._shares("inference", inference.phases, elapsed_s),
            **self._shares("learner", learner.phases, elapsed_s),
            **self._scalars,
        }

    def _shares(self, thread: str, phases: Phases, elapsed_s: float) -> Line:
        """Each phase's share of this line's time."""
        before, seconds = self._phase_seconds[thread], phases.seconds
        self._phase_seconds[thread] = seconds
        return {
            f"{thread}_share_{name}": (spent_s - before.get(name, 0.0)) / elapsed_s
            for name, spent_s in seconds.items()
        }

    def _up_to_round(self, count: int, records: list[Record]) -> list[Record]:
        """The records up to the end of so many rounds; the others are kept for later lines."""
        self._records += records
        ends = [i for i, one in enumerate(self._records, 1) if isinstance(one, RoundRecord)]
        end = ends[count - 1] if count else 0
        taken, self._records = self._records[:end], self._records[end:]
        return taken

    def _take_inference(self, records: list[Record]) -> list[BatchRecord]:
        batches = []
        for record in records:
            if isinstance(record, BatchRecord):
                batches.append(record)
            elif isinstance(record, RoundRecord):
                continue
            elif record.evaluation:
                self._evaluation_returns.append(record.episode_return)
                self._evaluation_episodes += 1
            else:
                self._returns.append(record.episode_return)
                self._lengths.append(record.length_steps)
                self._episodes += 1
        return batches


class Writer:
    """Writes lines to `metrics.jsonl`, appending over restarts, and to TensorBoard.

    A full disk costs the lines that it has no room for, and TensorBoard everything until the run is
    started again; it does not end the run. Files that are deleted or moved meanwhile are made anew.
    """

    def __init__(self, run_dir: Path, start_frames: int = 0) -> None:
        """Opens both files.

        Args:
            run_dir: Where they are; the folder is there.
            start_frames: Where the run goes on. TensorBoard no longer shows what it has from
                beyond, which an earlier process has written and which is now played again.

        Raises:
            ConfigError: where something else is in their place, or they cannot be written.
        """
        self._path, self._folder = run_dir / "metrics.jsonl", run_dir / "tensorboard"
        self._board: SummaryWriter | None = None
        try:
            self._board_file = self._open_board(start_frames + 1 if start_frames else None)
            # Without a buffer, so that what cannot be written is not kept for the next line.
            self._lines = open_to_append(self._path)
        except OSError as error:
            self._on_board(lambda board: board.close())
            where = os.fsdecode(error.filename or self._folder)
            raise ConfigError(
                f"{where}: cannot be written ({error.strerror}); move it away, or choose another "
                "run_dir"
            ) from error

    def write(self, line: Line) -> None:
        """One line, with `env_frames` as TensorBoard's step. NaN and infinity become null."""
        finite = {name: v if v is None or np.isfinite(v) else None for name, v in line.items()}
        try:
            self._follow()
            self._append(json.dumps(finite).encode() + b"\n")
        except OSError as error:
            log.error("a line of metrics.jsonl is lost (%s)", error)
        self._on_board(lambda board: _add_scalars(board, finite))

    def _follow(self) -> None:
        """Opens `metrics.jsonl` anew where the open file is no longer the one at its path."""
        if not is_at(self._lines.fileno(), self._path):
            lines = open_to_append(self._path)
            self._lines.close()
            self._lines = lines
            log.warning("%s was deleted or moved; its lines go on in a new file", self._path)

    def _append(self, line: bytes) -> None:
        """Writes all of a line or, raising OSError, nothing."""
        written = self._lines.write(line)
        if written != len(line):
            self._lines.truncate(self._lines.seek(0, os.SEEK_END) - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open_board(self, purge_step: int | None) -> Path:
        """Begins a file of TensorBoard's; returns its path."""
        self._folder.mkdir(exist_ok=True)
        before = set(os.listdir(self._folder))
        self._board = SummaryWriter(str(self._folder), purge_step=purge_step)
        (name,) = set(os.listdir(self._folder)) - before
        return self._folder / name

    def _on_board(self, work: Callable[[SummaryWriter], None]) -> None:
        if self._board is None:
            return
        try:
            if not self._board_file.exists():
                # All that it was given is on the disk, or was.
                self._board_file = self._open_board(None)
                log.warning("TensorBoard's file was deleted or moved; it goes on in a new one")
            work(self._board)
        except OSError as error:
            # Its own thread has ended with the error, and none of its calls works any more.
            self._board = None
            log.error("TensorBoard's file ends here (%s); metrics.jsonl goes on", error)

    def close(self) -> None:
        """Flushes and closes both files."""
        self._lines.close()
        self._on_board(lambda board: board.close())


def _add_scalars(board: SummaryWriter, line: Line) -> None:
    for name, value in line.items():
        if value is not None:
            board.add_scalar(name, value, line["env_frames"])
    board.flush()


def _drain(records: queue.SimpleQueue[T]) -> list[T]:
    return [records.get() for _ in range(records.qsize())]


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _percentile(values: list[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _mean_scalars(updates: list[UpdateRecord]) -> Line:
    """Means over the updates that took place; empty where none did."""
    values: dict[str, list[float]] = {}
    for update in updates:
        for name, value in update.scalars.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of_name)) for name, of_name in values.items()}
