"""Which page each environment writes to, how pages are linked, and when one is free again.

Up to three unrolls read a page: its own, its predecessor's (whose row T is this page's first) and
its successor's (whose context is this page's last rows). Each holds a reference until it has been
read for the last time, and an open page holds one itself. `_unref` frees a page with its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seed.wire.arrays import BoolArray, Int64Array, UInt64Array
from seed.wire.messages import NO_HISTORY

NO_PAGE = -1
NO_ENVIRONMENT = -1
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


class PageSlots(NamedTuple):
    """Where new rows go, and which pages are whole once they are written.

    Attributes:
        pages: `[n] int64`
        predecessors: The page before each of these, or NO_PAGE. `[n] int64`
        offsets: Row within the page. `[n] int64`
        ages: Rows since the start of the episode or history, at most MAX_AGE. `[n] int64`
        complete: Pages for the learner, whose successor begins with these rows.
    """

    pages: Int64Array
    predecessors: Int64Array
    offsets: Int64Array
    ages: Int64Array
    complete: list[PageLinks]


class PageTable:
    """Bookkeeping over page numbers only; it holds no rows. Owned by the inference thread.

    Arrays hold what there is per environment, since every batch needs it of all of its rows; lists
    hold what there is per page, since few pages begin or end at a time.
    """

    def __init__(
        self,
        num_pages: int,
        unroll_length: int,
        evaluation: BoolArray,
        first_offsets: Int64Array | None = None,
        context_rows: int = 1,
    ) -> None:
        """All pages are free and no environment writes.

        Args:
            num_pages: Pages in all.
            unroll_length: Rows of a page.
            evaluation: Environments whose whole pages nobody reads. `[max_envs] bool`
            first_offsets: Row of its first page at which a history of each environment begins; 0
                everywhere where not given. Such a page is no unroll, only context of the next
                one. `[max_envs] int64`
            context_rows: Rows of the page before that an unroll needs, if there is such a page.
        """
        self.unroll_length = unroll_length
        self._context_rows = context_rows
        max_envs = len(evaluation)
        if first_offsets is None:
            first_offsets = np.zeros(max_envs, np.int64)
        self._evaluation: list[bool] = evaluation.tolist()
        self._first_offsets: list[int] = first_offsets.tolist()
        self.rows_dropped = 0
        # Pages are taken from the end: the most recently freed is the warmest in the caches.
        self._free = list(range(num_pages - 1, -1, -1))
        self._ref_counts = [0] * num_pages
        self._before = [NO_PAGE] * num_pages
        # Whose rows each page holds.
        self._owners = [NO_ENVIRONMENT] * num_pages
        # Row of each page that was written first.
        self._starts = [0] * num_pages
        # Of each environment: its open page, the page before, the rows in it. [max_envs] each
        self._pages = np.full(max_envs, NO_PAGE, np.int64)
        self._predecessors = np.full(max_envs, NO_PAGE, np.int64)
        self._lengths = np.zeros(max_envs, np.int64)
        self._run_ids = np.zeros(max_envs, np.uint64)
        self._ages = np.zeros(max_envs, np.int64)

    @property
    def num_free(self) -> int:
        """Pages that no unroll reads and nobody writes."""
        return len(self._free)

    def pages_needed(self, env_ids: Int64Array, run_ids: UInt64Array) -> int:
        """Free pages that `advance` with the same arguments may take."""
        begins = self._pages[env_ids] == NO_PAGE
        begins |= self._lengths[env_ids] == self.unroll_length
        begins |= self._breaks(env_ids, run_ids)
        return int(begins.sum())

    def _breaks(self, env_ids: Int64Array, run_ids: UInt64Array) -> BoolArray:
        """Whether these rows begin a new history."""
        breaks: BoolArray = (self._run_ids[env_ids] != run_ids) | (run_ids == NO_HISTORY)
        return breaks

    def advance(
        self,
        env_ids: Int64Array,
        run_ids: UInt64Array,
        first: BoolArray,
        start: int | None = None,
    ) -> PageSlots:
        """Says where one new row of each environment goes; the environments are all different.

        A run_id other than the environment's last one ends its old history, and NO_HISTORY always
        does. Histories begin at row `start` of their first page; None for each one's own.
        """
        broken = self._breaks(env_ids, run_ids)
        if np.count_nonzero(broken):
            self.drop(env_ids[broken])
            self._run_ids[env_ids] = run_ids
        pages, offsets = self._pages[env_ids], self._lengths[env_ids]
        opens = pages == NO_PAGE
        ages = self._ages[env_ids] + 1
        np.minimum(ages, MAX_AGE, out=ages)
        ages[first | opens] = 0
        opens |= offsets == self.unroll_length
        complete: list[PageLinks] = []
        if np.count_nonzero(opens):
            complete = self._begin_pages(env_ids[opens].tolist(), start)
            pages, offsets = self._pages[env_ids], self._lengths[env_ids]
        self._ages[env_ids] = ages
        self._lengths[env_ids] = offsets + 1
        return PageSlots(pages, self._predecessors[env_ids], offsets, ages, complete)

    def locate(self, env_ids: Int64Array) -> PageSlots:
        """Where the newest row of each of these environments is; none of them is without one."""
        pages, predecessors = self._pages[env_ids], self._predecessors[env_ids]
        return PageSlots(pages, predecessors, self._lengths[env_ids] - 1, self._ages[env_ids], [])

    def _begin_pages(self, env_ids: list[int], start: int | None) -> list[PageLinks]:
        """Opens a page for each of these environments; returns what the learner gets."""
        complete: list[PageLinks] = []
        unread: list[PageLinks] = []
        for env_id in env_ids:
            before, page = int(self._pages[env_id]), self._free.pop()
            offset = 0
            if before == NO_PAGE:
                offset = self._first_offsets[env_id] if start is None else start
            self._before[page], self._starts[page], self._ref_counts[page] = before, offset, 1
            self._owners[page] = env_id
            self._pages[env_id], self._predecessors[env_id] = page, before
            self._lengths[env_id] = offset
            if before == NO_PAGE:
                continue
            self._ref_counts[page] += 1
            self._ref_counts[before] += 1
            links = PageLinks(self._before[before], before, page)
            skip = self._evaluation[env_id] or self._lacks_rows(before)
            (unread if skip else complete).append(links)
        self.consume(unread)
        return complete

    def _lacks_rows(self, page: int) -> bool:
        """Whether a page has not all rows of an unroll, or the page before not all its context."""
        before = self._before[page]
        late = before != NO_PAGE and self._starts[before] > self.unroll_length - self._context_rows
        return self._starts[page] > 0 or late

    def drop(self, env_ids: Int64Array) -> None:
        """Ends the histories of these environments; counts the rows that the learner misses."""
        for env_id in env_ids[self._pages[env_ids] != NO_PAGE].tolist():
            page = int(self._pages[env_id])
            self._pages[env_id] = NO_PAGE
            if not self._evaluation[env_id] and self._run_ids[env_id] != NO_HISTORY:
                self.rows_dropped += int(self._lengths[env_id]) - self._starts[page]
            self._unref(self._before[page])
            self._unref(page)

    def reserve(self, ref_counts: Int64Array) -> Int64Array:
        """Takes k free pages for unrolls of an earlier process; before inference starts. `[k]`

        Args:
            ref_counts: For each page, the unrolls that read it; `consume` of their links frees it.
                `[k] int64`
        """
        pages = [self._free.pop() for _ in ref_counts]
        for page, count in zip(pages, ref_counts.tolist(), strict=True):
            self._ref_counts[page], self._owners[page] = count, NO_ENVIRONMENT
        return np.array(pages, np.int64)

    def owners(self, pages: Links) -> list[int]:
        """Whose these pages are, until they are consumed; by any thread that was handed them.

        NO_ENVIRONMENT where an earlier process wrote them.
        """
        links = pages.tolist() if isinstance(pages, np.ndarray) else pages
        return [self._owners[page] for _, page, _ in links]

    def consume(self, pages: Links) -> None:
        """The unrolls of these pages have been read for the last time."""
        for links in pages.tolist() if isinstance(pages, np.ndarray) else pages:
            for page in links:
                self._unref(page)

    def _unref(self, page: int) -> None:
        """Takes one reference off a page; with the last one it is free."""
        if page == NO_PAGE:
            return
        self._ref_counts[page] -= 1
        if not self._ref_counts[page]:
            self._free.append(page)
