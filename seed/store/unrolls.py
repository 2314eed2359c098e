"""The paged store: rows in, unrolls out, every row stored once.

One page is T consecutive rows of one environment. Four parts know one thing each:

- `PageTable` (pages.py): which page an environment writes to, and when a page is free again.
- `Columns` (columns.py): the memory of the rows.
- `ReadyQueue` (ready_queue.py): whole pages on their way to the learner and back.
- gather.py: how an unroll is copied out of the pages.

The inference thread writes and owns the page table. The learner's thread gets the links of whole
pages from `take`, copies their rows with `gather`, and hands the pages back with `release`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seed.store.columns import Columns
from seed.store.fleet import evaluation_environments
from seed.store.gather import gather, gather_without_observations
from seed.store.layout import StoreLayout
from seed.store.pages import Links, PageLinks, PageTable
from seed.store.ready_queue import ReadyQueue
from seed.store.row_index import RowIndex, fill_row_index
from seed.store.rows import Unroll
from seed.wire.arrays import BoolArray, Int64Array, UInt64Array


class UnrollStore:
    """What both threads hold: the four parts, and what needs more than one of them.

    Attributes:
        layout: The store's form and size.
        device: Where its rows are.
        evaluation: Which env_ids are evaluation environments. `[max_envs] bool`
    """

    def __init__(self, layout: StoreLayout, device: torch.device, *, pinned: bool = False) -> None:
        """Reserves the memory; `pinned` gathers to where a GPU copies from without waiting."""
        self.layout = layout
        self.evaluation = evaluation_environments(layout.max_envs, layout.evaluation_share)
        self._columns = Columns(layout, device, pinned=pinned)
        self._table = PageTable(
            layout.num_pages, layout.unroll_length, self.evaluation, layout.first_offsets,
            layout.context_rows,
        )  # fmt: skip
        self._queue = ReadyQueue()
        self.device = self._columns.device
        # What one part does alone. The inference thread calls these:
        self.write_observations = self._columns.write_observations
        self.write_arrivals = self._columns.write_arrivals
        self.read_inputs = self._columns.read_inputs
        self.write_actions = self._columns.write_actions
        self.clear_actions = self._columns.clear_actions
        self.publish = self._queue.publish
        self.publish_round = self._queue.publish_round
        self.drop = self._table.drop
        # The learner's thread these:
        self.take = self._queue.take
        self.take_some = self._queue.take_some
        self.take_round = self._queue.take_round
        self.take_shortage = self._queue.take_shortage
        self.owners = self._table.owners
        self.release = self._queue.release
        # And whoever resumes a run this one, before there are threads:
        self.reserve = self._table.reserve

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    @property
    def columns(self) -> dict[str, Tensor]:
        """All that is stored, by name: `[pages * T + 2, *shape]`, `agent_states` `[pages + 2, S]`.

        The last row but one of each is zero, the last one scratch.
        """
        return self._columns.tensors

    # --- the inference thread's side -------------------------------------------------------------

    def has_room(self, env_ids: Int64Array, run_ids: UInt64Array) -> bool:
        """Whether a new row of each of these environments can be stored now."""
        self._free_released()
        short = 0
        if len(env_ids) > self._table.num_free:
            short = max(0, self._table.pages_needed(env_ids, run_ids) - self._table.num_free)
        self._queue.report_shortage(short)
        return not short

    def wait_for_release(self, timeout_s: float) -> None:
        """Returns once the learner has taken or handed back pages since the last call, or later."""
        self._queue.wait_for_learner(timeout_s)
        self._free_released()

    def _free_released(self) -> None:
        for pages in self._queue.released():
            self._table.consume(pages)

    def allocate_rows(
        self,
        env_ids: Int64Array,
        run_ids: UInt64Array,
        first: BoolArray,
        row_index: RowIndex[Int64Array],
        start: int | None = None,
    ) -> list[PageLinks]:
        """Says where one new row of each environment goes.

        The environments are all different and `has_room` holds. A run_id other than the
        environment's last one breaks its history: the open page is dropped.

        Args:
            env_ids: `[n] int64`
            run_ids: `[n] uint64`
            first: Rows that start an episode. `[n] bool`
            row_index: Filled in, for n rows or more; the others become scratch.
            start: Row of a page at which histories that begin now do; None for each one's own.

        Returns:
            Pages that are whole once these rows have been written.
        """
        slots = self._table.advance(env_ids, run_ids, first, start)
        fill_row_index(row_index, self.layout, slots)
        return slots.complete

    def locate_rows(self, env_ids: Int64Array, row_index: RowIndex[Int64Array]) -> None:
        """Says where the newest row of each environment is, `[n] int64`, all with a history.

        `row_index` is filled in as by `allocate_rows`.
        """
        fill_row_index(row_index, self.layout, self._table.locate(env_ids))

    @property
    def rows_dropped(self) -> int:
        """Rows lost with broken histories so far; may be read by any thread."""
        return self._table.rows_dropped

    # --- the learner's side ----------------------------------------------------------------------

    @property
    def num_ready(self) -> int:
        """Whole pages that wait for the learner; may be read by any thread."""
        return len(self._queue)

    def gather(self, pages: Links) -> Unroll:
        """Copies the unrolls of B pages out of the store, with burn-in and frame stacks."""
        return gather(self._columns, self.layout, pages)

    def gather_without_observations(self, pages: Links) -> Unroll:
        """Copies what acting left behind in the unrolls of B pages, and nothing else."""
        return gather_without_observations(self._columns, self.layout, pages)
