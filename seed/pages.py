"""Which page each environment writes to, how pages are linked, and when one is free again.

A page is kept while any of these still needs it: its own unroll (until consumed), the unroll of
its predecessor (whose row T is this page's first), the unroll of its successor (whose context is
this page's last rows). A count of those needs per page decides; nothing is ever scanned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seed.messages import NO_HISTORY

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
NO_PAGE = -1
MAX_AGE = 255


class PageLinks(NamedTuple):
    """A whole page with its neighbours in the same history.

    Attributes:
        predecessor: The page before, or NO_PAGE where the history starts with this one.
        page: The page itself.
        successor: The page after, whose first row has been written.
    """

    predecessor: int
    page: int
    successor: int


# Links of B pages; an array is `[B, 3] int64`.
Links = Sequence[PageLinks] | Int64Array


class Placed(NamedTuple):
    """Where new rows go, and which pages they make whole.

    Attributes:
        pages: `[n] int64`
        offsets: Row within the page. `[n] int64`
        complete: Pages for the learner, whose successor begins with these rows.
    """

    pages: Int64Array
    offsets: Int64Array
    complete: list[PageLinks]


class PageTable:
    """Bookkeeping over page numbers only; it holds no rows. Owned by the inference thread."""

    def __init__(
        self,
        num_pages: int,
        unroll_length: int,
        evaluation: BoolArray,
        first_offsets: Int64Array | None = None,
    ) -> None:
        """All pages are free and no environment writes.

        Args:
            num_pages: Pages in all.
            unroll_length: Rows of a page.
            evaluation: Environments whose whole pages nobody reads. `[max_envs] bool`
            first_offsets: Row of its first page at which a history of each environment begins; 0
                everywhere where not given. Such a page is no unroll, only context of the next
                one. `[max_envs] int64`
        """
        self.unroll_length = unroll_length
        self._evaluation = evaluation
        max_envs = len(evaluation)
        if first_offsets is None:
            first_offsets = np.zeros(max_envs, np.int64)
        self._first_offsets = first_offsets
        # Pages are taken from the end: the most recently freed is the warmest in the caches.
        self._free = np.arange(num_pages - 1, -1, -1, dtype=np.int64)
        self.num_free = num_pages
        self.rows_dropped = 0
        self._needs = np.zeros(num_pages, np.int64)
        self.predecessors = np.full(num_pages, NO_PAGE, np.int64)
        # Row of each page that was written first.
        self._starts = np.zeros(num_pages, np.int64)
        self._open_pages = np.full(max_envs, NO_PAGE, np.int64)
        self._lengths = np.zeros(max_envs, np.int64)
        self._run_ids = np.zeros(max_envs, np.uint64)
        self.ages = np.zeros(max_envs, np.int64)

    def pages_needed(self, env_ids: Int64Array, run_ids: npt.NDArray[np.uint64]) -> int:
        """Free pages that `advance` with the same arguments may take."""
        return int(self._begins(env_ids, run_ids).sum())

    def _begins(self, env_ids: Int64Array, run_ids: npt.NDArray[np.uint64]) -> BoolArray:
        begins: BoolArray = (
            (self._open_pages[env_ids] == NO_PAGE)
            | (self._lengths[env_ids] == self.unroll_length)
            | self._breaks(env_ids, run_ids)
        )
        return begins

    def _breaks(self, env_ids: Int64Array, run_ids: npt.NDArray[np.uint64]) -> BoolArray:
        """Whether these rows do not go on with what their environments sent before."""
        breaks: BoolArray = (self._run_ids[env_ids] != run_ids) | (run_ids == NO_HISTORY)
        return breaks

    def advance(
        self, env_ids: Int64Array, run_ids: npt.NDArray[np.uint64], first: BoolArray
    ) -> Placed:
        """Gives one new row of each environment its place; the environments are all different.

        A run_id other than the environment's last one ends its old history, and NO_HISTORY always
        does. `ages[env_ids]` then holds the rows since the start of the episode or history, at
        most MAX_AGE.
        """
        self.drop(env_ids[self._breaks(env_ids, run_ids)])
        before = self._open_pages[env_ids]
        self.ages[env_ids] = np.where(
            first | (before == NO_PAGE), 0, np.minimum(self.ages[env_ids] + 1, MAX_AGE)
        )
        begins = self._begins(env_ids, run_ids)
        self._run_ids[env_ids] = run_ids
        complete = self._begin_pages(env_ids[begins], before[begins]) if begins.any() else []
        offsets = self._lengths[env_ids]
        self._lengths[env_ids] = offsets + 1
        return Placed(self._open_pages[env_ids], offsets, complete)

    def _begin_pages(self, env_ids: Int64Array, before: Int64Array) -> list[PageLinks]:
        """Opens a page per environment after page `before`; returns what the learner gets."""
        self.num_free -= len(env_ids)
        new = self._free[self.num_free : self.num_free + len(env_ids)].copy()
        follows = before != NO_PAGE
        starts = np.where(follows, 0, self._first_offsets[env_ids])
        self._open_pages[env_ids] = new
        self._lengths[env_ids] = self._starts[new] = starts
        self.predecessors[new] = before
        self._needs[new] = 1 + follows
        whole = before[follows]
        self._needs[whole] += 1
        links = np.stack([self.predecessors[whole], whole, new[follows]], axis=1)  # [k, 3] int64
        unread = self._evaluation[env_ids[follows]] | (self._starts[whole] > 0)
        self.consume(links[unread])
        return [PageLinks(*row) for row in links[~unread].tolist()]

    def drop(self, env_ids: Int64Array) -> None:
        """Ends the histories of these environments; counts the rows that the learner misses."""
        env_ids = env_ids[self._open_pages[env_ids] != NO_PAGE]
        if not len(env_ids):
            return
        pages = self._open_pages[env_ids]
        self._open_pages[env_ids] = NO_PAGE
        self._unneed(pages)
        self._unneed(self.predecessors[pages])
        rows = self._lengths[env_ids] - self._starts[pages]
        missed = ~self._evaluation[env_ids] & (self._run_ids[env_ids] != NO_HISTORY)
        self.rows_dropped += int(rows[missed].sum())

    def adopt(self, needs: Int64Array) -> Int64Array:
        """Takes a free page for each of these numbers of unrolls that need it. `[k] int64` both.

        The unrolls are of an earlier process; `consume` of their links makes the pages free again.
        """
        self.num_free -= len(needs)
        pages = self._free[self.num_free : self.num_free + len(needs)].copy()
        self._needs[pages] = needs
        return pages

    def consume(self, pages: Links) -> None:
        """The unrolls of these pages have been read for the last time."""
        links = np.asarray(pages, np.int64).reshape(-1, 3)  # [k, 3] int64
        for column in links.T:
            self._unneed(column)

    def _unneed(self, pages: Int64Array) -> None:
        """Takes one need off each page (all different); those with none left are free."""
        pages = pages[pages != NO_PAGE]
        self._needs[pages] -= 1
        freed = pages[self._needs[pages] == 0]
        self._free[self.num_free : self.num_free + len(freed)] = freed
        self.num_free += len(freed)
