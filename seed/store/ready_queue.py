"""Whole pages on their way to the learner and back: the only place where the two threads meet."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from seed.store.pages import Links, PageLinks


class RoundPages(NamedTuple):
    """What a round of lock-step made whole.

    Attributes:
        pages: At least one, ordered by env_id.
        env_steps: Steps of all environments in this process so far.
    """

    pages: Sequence[PageLinks]
    env_steps: int


class ReadyQueue:
    """Links of whole pages, first in, first out; and those that the learner hands back."""

    def __init__(self) -> None:
        self._ready: deque[PageLinks] = deque()
        self._became_ready = threading.Condition()
        self._released: queue.SimpleQueue[Links] = queue.SimpleQueue()
        self._learner_moved = threading.Event()
        self._pages_short = 0
        self._round: RoundPages | None = None

    def __len__(self) -> int:
        """Pages that wait for the learner; any thread may ask."""
        held = self._round
        return len(self._ready) + (len(held.pages) if held else 0)

    # --- the inference thread's side -------------------------------------------------------------

    def publish(self, complete: Sequence[PageLinks]) -> None:
        """Queues whole pages; the device has finished writing their rows."""
        if complete:
            with self._became_ready:
                self._ready.extend(complete)
                self._became_ready.notify()

    def publish_round(self, round_pages: RoundPages) -> None:
        """As `publish`, for all pages of a round; the learner has taken those of the last one."""
        with self._became_ready:
            self._round = round_pages
            self._became_ready.notify()

    def report_shortage(self, pages: int) -> None:
        """Says how many pages inference lacks; 0 where it has room, whatever it lacked before."""
        self._pages_short = pages
        if pages:
            with self._became_ready:
                self._became_ready.notify()

    def released(self) -> Iterator[Links]:
        """What the learner has handed back since the last call."""
        while not self._released.empty():
            yield self._released.get()

    def wait_for_learner(self, timeout_s: float) -> None:
        """Returns once the learner has taken or released pages since the last call, or later."""
        self._learner_moved.wait(timeout_s)
        self._learner_moved.clear()

    # --- the learner's side ----------------------------------------------------------------------

    def take(self, count: int, timeout_s: float) -> list[PageLinks]:
        """The `count` oldest pages; none if there are not so many before the timeout."""
        with self._became_ready:
            if not self._became_ready.wait_for(lambda: len(self._ready) >= count, timeout_s):
                return []
            taken = [self._ready.popleft() for _ in range(count)]
        self._learner_moved.set()
        return taken

    def take_some(self, limit: int, timeout_s: float) -> list[PageLinks]:
        """The oldest pages, `limit` at most; waits until there are any.

        None where none came before the timeout, or where inference lacks pages (`take_shortage`).
        """
        with self._became_ready:
            self._became_ready.wait_for(lambda: self._ready or self._pages_short > 0, timeout_s)
            taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._learner_moved.set()
        return taken

    def take_round(self, timeout_s: float) -> RoundPages | None:
        """The round that was published; None where there is none before the timeout."""
        with self._became_ready:
            self._became_ready.wait_for(lambda: self._round is not None, timeout_s)
            taken, self._round = self._round, None
        return taken

    def take_shortage(self) -> int:
        """Pages that inference lacked when it last asked for room; says so once."""
        short, self._pages_short = self._pages_short, 0
        return short

    def release(self, pages: Links) -> None:
        """Hands pages back once no copy of them is needed or under way any more."""
        self._released.put(pages)
        self._learner_moved.set()
