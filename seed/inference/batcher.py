"""Which waiting STEPs go through the network next. No socket, no thread, no clock.

`Sessions` tells a batcher which sessions there are (`open`, `close`) and what has arrived (`add`).
The loop asks how long it may listen (`wait_s`), whether it need read on (`is_full`), and what to
run (`next`). Another order of batches is another class with these six names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seed.config.schema import InferenceConfig
from seed.inference.session_table import Session
from seed.wire import messages
from seed.wire.arrays import Int64Array, UInt64Array


class GroupRows(NamedTuple):
    """One checked STEP and the environments that it is about.

    Attributes:
        env_ids: `[n] int64`
        arrays: What arrived, `[n, ...]` each.
    """

    env_ids: Int64Array
    arrays: messages.StepArrays


class InferenceBatch(NamedTuple):
    """Steps of groups whose environments are all different, in one row after the other.

    Attributes:
        steps: Of each group.
        env_ids: Of all rows. `[n] int64`
        run_ids: `[n] uint64`
        flags: `[n] uint8`
    """

    steps: Sequence[GroupRows]
    env_ids: Int64Array
    run_ids: UInt64Array
    flags: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, steps: Sequence[GroupRows]) -> InferenceBatch:
        """The batch of these steps, at least one."""
        return cls(
            steps,
            np.concatenate([step.env_ids for step in steps]),
            np.concatenate([step.arrays.run_ids for step in steps]),
            np.concatenate([step.arrays.flags for step in steps]),
        )


class WaitingStep(NamedTuple):
    """A checked STEP that waits for its batch.

    Attributes:
        session: Who sent it.
        group: The group of the session whose rows it brings.
        seq: Its number, which its ACTIONS repeat.
        rows: What it brings.
        arrived_s: When it was read off the socket.
    """

    session: Session
    group: int
    seq: int
    rows: GroupRows
    arrived_s: float


class Batcher:
    """Work-conserving: whenever the device is free, every row that has arrived goes in.

    `min_batch` may hold a batch back, for `max_wait_us` at most, and never once all rows are there.
    """

    def __init__(self, config: InferenceConfig) -> None:
        self._min_batch, self._max_batch = config.min_batch, config.max_batch
        self._max_wait_s = config.max_wait_us * 1e-6
        self._num_envs = 0
        # By session and group, oldest first.
        self._waiting: dict[tuple[int, int], WaitingStep] = {}
        self._rows = 0

    @property
    def is_full(self) -> bool:
        """Whether as many rows wait as a batch can take, so that no more need be read."""
        return self._rows >= self._max_batch

    def open(self, session: Session) -> None:
        """From now on a batch may wait for this session's rows."""
        self._num_envs += session.hello.num_envs

    def close(self, session: Session) -> None:
        """Forgets the session and what waits of it."""
        self._num_envs -= session.hello.num_envs
        for group in range(len(session.env_ids)):
            self._forget((session.number, group))

    def add(self, step: WaitingStep) -> bool:
        """Takes in a STEP; whether it replaces an earlier one of its group, which is forgotten."""
        key = step.session.number, step.group
        replaces = key in self._waiting and self._forget(key)
        self._waiting[key] = step
        self._rows += len(step.rows.env_ids)
        return replaces

    def wait_s(self, now_s: float) -> float:
        """Seconds for which listening is still better than a batch; infinite if nothing waits."""
        if not self._waiting:
            return math.inf
        if self._rows >= min(self._min_batch, self._num_envs):
            return 0.0
        oldest_s = next(iter(self._waiting.values())).arrived_s
        return max(0.0, oldest_s + self._max_wait_s - now_s)

    def next(
        self, now_s: float, has_room: Callable[[InferenceBatch], bool]
    ) -> tuple[list[WaitingStep], InferenceBatch] | None:
        """The oldest groups that fit one batch, which wait no longer, and their rows in that order.

        None while listening is better, or while `has_room` denies these rows their place in the
        store: then `wait_s` is 0, and they stay.
        """
        if self.wait_s(now_s) > 0:
            return None
        steps: list[WaitingStep] = []
        rows = 0
        for step in self._waiting.values():
            rows += len(step.rows.env_ids)
            if rows > self._max_batch:
                break
            steps.append(step)
        batch = InferenceBatch.of([step.rows for step in steps])
        if not has_room(batch):
            return None
        for step in steps:
            del self._waiting[step.session.number, step.group]
        self._rows -= len(batch.env_ids)
        return steps, batch

    def _forget(self, key: tuple[int, int]) -> bool:
        step = self._waiting.pop(key, None)
        if step is not None:
            self._rows -= len(step.rows.env_ids)
        return step is not None
