"""Which waiting STEPs go through the network next. No socket, no thread, no clock.

Two orders of batches: `Batcher` here conserves work, `Rounds` (rounds.py) keeps lock-step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

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


class Turn(NamedTuple):
    """What the loop runs next.

    Attributes:
        steps: Of groups whose environments are all different.
        batch: Their rows, in the order of the steps.
        store: Whether the rows are new; else they are in the store, and wait for their actions.
        act: Whether actions are chosen now; else that comes later, in a turn of its own.
        start: Row of a page at which histories that begin with this turn do; None for each
            environment's own (`StoreLayout.first_offsets`).
    """

    steps: list[WaitingStep]
    batch: InferenceBatch
    store: bool = True
    act: bool = True
    start: int | None = None

    @classmethod
    def of(cls, steps: list[WaitingStep]) -> Turn:
        """Stores and acts on these steps, at least one."""
        return cls(steps, InferenceBatch.of([step.rows for step in steps]))


class Schedule(Protocol):
    """An order of batches. `Sessions` tells it who there is and what has come; the loop asks it."""

    @property
    def is_full(self) -> bool:
        """Whether no more need be read before the next turn."""

    def open(self, session: Session) -> None:
        """From now on rows of this session may come."""

    def close(self, session: Session) -> None:
        """Forgets the session and what waits of it."""

    def add(self, step: WaitingStep) -> bool:
        """Takes in a STEP; whether it replaces an earlier one of its group, which is forgotten."""

    def wait_s(self, now_s: float) -> float:
        """Seconds for which listening is still better than a turn; infinite if nothing waits."""

    def next(self, now_s: float, has_room: Callable[[InferenceBatch], bool]) -> Turn | None:
        """What to run now.

        None while listening is better, or while `has_room` denies new rows their place in the
        store: then `wait_s` is 0, and they stay.
        """


def chunk(steps: Iterable[WaitingStep], max_batch: int) -> list[WaitingStep]:
    """The first of these steps, as many as fit a batch; a group alone always does."""
    chosen: list[WaitingStep] = []
    rows = 0
    for step in steps:
        rows += len(step.rows.env_ids)
        if rows > max_batch:
            break
        chosen.append(step)
    return chosen


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

    def next(self, now_s: float, has_room: Callable[[InferenceBatch], bool]) -> Turn | None:
        """The oldest groups that fit one batch, which wait no longer, in that order."""
        if self.wait_s(now_s) > 0:
            return None
        turn = Turn.of(chunk(self._waiting.values(), self._max_batch))
        if not has_room(turn.batch):
            return None
        for step in turn.steps:
            del self._waiting[step.session.number, step.group]
        self._rows -= len(turn.batch.env_ids)
        return turn

    def _forget(self, key: tuple[int, int]) -> bool:
        step = self._waiting.pop(key, None)
        if step is not None:
            self._rows -= len(step.rows.env_ids)
        return step is not None
