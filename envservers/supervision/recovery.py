"""When what has failed is started again, and when it stays down. No clock and no process here."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, MutableSequence
from typing import TypeAlias

Cells: TypeAlias = MutableSequence[int] | memoryview

MAX_FAULTS = 5
FORGIVEN_AFTER_S = 600.0
FORGIVEN_AFTER_STEPS = 10_000
_SHORTEST_DELAY_S, _LONGEST_DELAY_S = 1.0, 60.0


def doubled_s(times: int, shortest_s: float, longest_s: float) -> float:
    """Seconds to wait: `shortest_s`, doubled so many times, but at most `longest_s`."""
    return min(shortest_s * 2.0 ** min(times, 30), longest_s)


def backoff_s(faults: int) -> float:
    """Seconds to wait after so many faults in a row: 0, 1, 2, 4, … up to a minute."""
    return doubled_s(faults - 2, _SHORTEST_DELAY_S, _LONGEST_DELAY_S) if faults > 1 else 0.0


def jitter() -> float:
    """A factor for a wait, so that what failed together does not come back together."""
    return random.uniform(0.5, 1.0)


class Restarts:
    """When the process of an environment server is started again, and when it stays down.

    `Recovery` counts the environments that end their process. This counts ends without a known
    reason. A process that is killed from outside is started again however often that happens, as
    on preemptible machines.
    """

    def __init__(self, jitter: Callable[[], float] = jitter) -> None:
        self._jitter = jitter
        self._in_a_row = self._unexplained = 0

    def pause_s(self, lived_s: float, *, explained: bool) -> float | None:
        """How long to wait after an end; None where there have been too many without a reason.

        Args:
            lived_s: How long the process has lived.
            explained: Whether an environment caused the end, or a signal from outside.
        """
        if lived_s >= FORGIVEN_AFTER_S:
            self._unexplained = 0
        if lived_s >= _LONGEST_DELAY_S:
            self._in_a_row = 0
        self._in_a_row += 1
        self._unexplained += not explained
        if not explained and self._unexplained >= MAX_FAULTS:
            return None
        return backoff_s(self._in_a_row) * self._jitter()


class Recovery:
    """Counts the faults of one unit that may be started anew: an environment, or a whole group.

    Attributes:
        due_s: When it may be started, on the clock of the caller's; infinite in quarantine.
    """

    def __init__(
        self, counts: Cells, cell: int, jitter: Callable[[], float] = jitter
    ) -> None:
        """Goes on from the faults in `counts[cell]`, where an earlier process left them.

        What failed there may start at once: the wait was the one before this process.
        """
        self._counts, self._cell, self._jitter = counts, cell, jitter
        self._since_s, self._since_steps = math.inf, 0
        self.due_s = math.inf if self.quarantined else 0.0

    @property
    def restarts(self) -> int:
        """Restarts since it last ran well, the one after the newest fault not counted."""
        return max(self._counts[self._cell] - 1, 0)

    @property
    def quarantined(self) -> bool:
        """Whether it has failed too often to be started again."""
        return self._counts[self._cell] >= MAX_FAULTS

    def fail(self, now_s: float) -> None:
        """Counts a fault; the unit is down."""
        faults = self._counts[self._cell] = min(self._counts[self._cell] + 1, MAX_FAULTS)
        self._since_s = math.inf
        self.due_s = math.inf if self.quarantined else now_s + backoff_s(faults) * self._jitter()

    def start(self, now_s: float, steps: int) -> None:
        """The unit runs again; `steps` counts on whatever happens."""
        self._since_s, self._since_steps = now_s, steps

    def forgive(self, now_s: float, steps: int) -> bool:
        """Forgets the faults of a unit that has run well for long; whether none is left."""
        ran_steps = steps - self._since_steps
        if now_s - self._since_s >= FORGIVEN_AFTER_S or (
            self._since_s < math.inf and ran_steps >= FORGIVEN_AFTER_STEPS
        ):
            self._counts[self._cell] = 0
        return self._counts[self._cell] == 0
