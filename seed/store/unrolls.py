"""The paged store: rows in, unrolls out, every row stored once.

One page is T consecutive rows of one environment. Row (page, t) lies at flat index page * T + t of
each column; one more row, all zeros, stands in for what lies before an episode's start, and the
last one, the scratch row, takes what nobody will read. An unroll is a page, the first row of its
successor (for the bootstrap value), and as context the last rows of its predecessor (burn-in, frame
stacks, the previous action). Each page keeps one recurrent state: the one before the row at which
its successor's burn-in starts, or, without burn-in, before its own row 0.

The inference thread writes and owns the page table. The learner's thread gets the links of whole
pages from `take`, copies their rows with `gather`, and hands the pages back with `release`.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from seed.store.fleet import evaluation_environments
from seed.store.layout import SPARE_ROWS, Column, StoreLayout
from seed.store.pages import Links, PageLinks, PageTable
from seed.store.row_index import RowIndex, fill_row_index
from seed.store.rows import Arrivals, Rows, Unroll
from seed.wire.arrays import BoolArray, Int64Array, UInt64Array


class UnrollStore:
    """Columns of rows on one device, the page table over them, and the queue of whole pages."""

    def __init__(
        self, layout: StoreLayout, device: torch.device, *, pinned: bool = False
    ) -> None:
        """Reserves the memory; `pinned` gathers to where a GPU copies from without waiting.

        Only that: torch rounds pinned blocks up to powers of two, which could double the store.
        """
        self.layout = layout
        # A tensor's own device: "cuda" would be another GPU in a thread that works on another.
        self.device = device = torch.empty(0, device=device).device
        length = layout.unroll_length
        self._zero_row = layout.zero_row
        # Rows back in time from a frame stack's oldest to its newest. [stack] int64
        self._back = torch.arange(layout.frame_stack - 1, -1, -1, device=device)
        # [max_envs] bool
        self.evaluation = evaluation_environments(layout.max_envs, layout.evaluation_share)
        self._table = PageTable(
            layout.num_pages, length, self.evaluation, layout.first_offsets
        )
        self._ready: deque[PageLinks] = deque()
        self._became_ready = threading.Condition()
        self._released: queue.SimpleQueue[Links] = queue.SimpleQueue()
        self._learner_moved = threading.Event()
        self._pages_short = 0
        self._pinned = pinned

        def zero_ended(rows: int, form: Column) -> Tensor:
            """A column `[rows + SPARE_ROWS, *shape]` whose spare rows are zero."""
            # Empty, so that pages never used take no memory on the CPU.
            column = torch.empty(rows + SPARE_ROWS, *form.shape, dtype=form.dtype, device=device)
            column[rows:] = 0
            return column

        # [pages + 2, S] float32
        self._page_states = zero_ended(
            layout.num_pages, Column((layout.state_size,), torch.float32)
        )
        # Each [pages * T + 2, *shape], and the recurrent states
        self._columns = {
            name: zero_ended(self._zero_row, form) for name, form in layout.columns.items()
        }
        self._columns["agent_states"] = self._page_states
        # The same memory for NumPy, which copies whole rows where torch copies element by element.
        self._host_columns = {
            name: column.numpy()
            for name, column in self._columns.items()
            if device.type == "cpu" and column.dtype != torch.bfloat16
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    @property
    def columns(self) -> dict[str, Tensor]:
        """All that is stored, by name: `[pages * T + 2, *shape]`, `agent_states` `[pages + 2, S]`.

        The last row but one of each is zero, the last one scratch.
        """
        return dict(self._columns)

    def reserve(self, uses: Int64Array) -> Int64Array:
        """Free pages for unrolls of an earlier process, before inference starts. `[k] int64`

        Args:
            uses: For each page, the unrolls whose `release` gives it back. `[k] int64`
        """
        return self._table.reserve(uses)

    # --- the inference thread's side -------------------------------------------------------------

    def has_room(self, env_ids: Int64Array, run_ids: UInt64Array) -> bool:
        """Whether a new row of each of these environments can be stored now."""
        self._consume_released()
        if len(env_ids) <= self._table.num_free:
            self._pages_short = 0
            return True
        self._pages_short = self._table.pages_needed(env_ids, run_ids) - self._table.num_free
        if self._pages_short <= 0:
            return True
        with self._became_ready:
            self._became_ready.notify()
        return False

    def wait_for_release(self, timeout_s: float) -> None:
        """Returns once the learner has taken or handed back pages since the last call, or later."""
        self._learner_moved.wait(timeout_s)
        self._learner_moved.clear()
        self._consume_released()

    def _consume_released(self) -> None:
        while not self._released.empty():
            self._table.consume(self._released.get())

    def allocate_rows(
        self,
        env_ids: Int64Array,
        run_ids: UInt64Array,
        first: BoolArray,
        row_index: RowIndex[Int64Array],
    ) -> list[PageLinks]:
        """Gives one new row of each environment its place.

        The environments are all different and `has_room` holds. A run_id other than the
        environment's last one breaks its history: the open page is dropped.

        Args:
            env_ids: `[n] int64`
            run_ids: `[n] uint64`
            first: Rows that start an episode. `[n] bool`
            places: Filled in, for n rows or more; the others become scratch.

        Returns:
            Pages that are whole once these rows have been written.
        """
        placed = self._table.advance(env_ids, run_ids, first)
        fill_row_index(row_index, self.layout, placed)
        return placed.complete

    def write_observations(self, rows: Int64Array, observations: npt.NDArray[Any]) -> None:
        """Copies observations `[n, *shape]` to their flat rows `[n]`; for a store on the CPU."""
        self._host_columns["observations"][rows] = observations

    def write_arrivals(self, row_index: RowIndex[Tensor], arrived: Arrivals) -> None:
        """Writes what arrived to its places, one row of each environment."""
        self._put(row_index.rows, {**arrived._asdict(), "ages": row_index.ages})

    def read_inputs(self, row_index: RowIndex[Tensor], rows: Rows) -> None:
        """Fills in stacks and previous actions `[1, n, ...]` of rows that have been filled."""
        if self.layout.frame_stack > 1:
            self._read("observations", row_index.seen, rows.observations)
        self._read("actions", row_index.previous, rows.previous_actions)

    def _read(self, column: str, index: Tensor, out: Tensor) -> None:
        """Copies the rows of a column at a flat index of any shape to memory of as many rows."""
        values = self._columns[column]
        out = out.view(*index.shape, *values.shape[1:])
        if column in self._host_columns:
            # "clip" writes to `out` without a buffer between; no number is out of range.
            self._host_columns[column].take(index.numpy(), 0, out=out.numpy(), mode="clip")
        else:
            torch.index_select(values, 0, index.view(-1), out=out.view(-1, *values.shape[1:]))

    def write_actions(
        self,
        row_index: RowIndex[Tensor],
        actions: Tensor,
        behaviour: Mapping[str, Tensor],
        agent_states: Tensor,
        policy_version: Tensor,
    ) -> None:
        """Stores what the agent did at rows that have been filled.

        Args:
            places: Of those rows.
            actions: `[n, ...]`
            behaviour: `[n, ...]` each.
            agent_states: Recurrent state before each row. `[n, S] float32`
            policy_version: Version of the weights that acted. `[] int32`
        """
        values = {f"behaviour.{name}": value for name, value in behaviour.items()}
        versions = policy_version.expand(len(row_index.rows))
        self._put(row_index.rows, {**values, "actions": actions, "policy_versions": versions})
        if self.layout.state_size:
            self._put(row_index.state_pages, {"agent_states": agent_states})

    def _put(self, rows: Tensor, values: Mapping[str, Tensor | None]) -> None:
        """Copies values `[n, *shape]` to these rows `[n] int64` of their columns, where given."""
        host_rows = rows.numpy() if self._host_columns else None
        for name, value in values.items():
            if value is None:
                continue
            if name in self._host_columns:
                self._host_columns[name][host_rows] = value.numpy()
            else:
                column = self._columns[name]
                column.index_copy_(0, rows, value.to(column.dtype))

    def publish(self, complete: Sequence[PageLinks]) -> None:
        """Queues whole pages for the learner; the device has finished writing their rows."""
        if complete:
            with self._became_ready:
                self._ready.extend(complete)
                self._became_ready.notify()

    def drop(self, env_ids: Int64Array) -> None:
        """Ends the histories of these environments; the rows of their open pages are lost."""
        self._table.drop(env_ids)

    @property
    def rows_dropped(self) -> int:
        """Rows lost with broken histories so far; may be read by any thread."""
        return self._table.rows_dropped

    # --- the learner's side ----------------------------------------------------------------------

    @property
    def num_ready(self) -> int:
        """Whole pages that wait for the learner."""
        return len(self._ready)

    def take(self, count: int, timeout_s: float) -> list[PageLinks]:
        """The `count` oldest whole pages; none if there are not so many before the timeout."""
        with self._became_ready:
            if not self._became_ready.wait_for(lambda: len(self._ready) >= count, timeout_s):
                return []
            taken = [self._ready.popleft() for _ in range(count)]
        self._learner_moved.set()
        return taken

    def take_some(self, limit: int, timeout_s: float) -> list[PageLinks]:
        """The oldest whole pages, `limit` at most; waits until there are any.

        None where none came before the timeout, or where inference lacks pages (`take_shortage`).
        """
        with self._became_ready:
            self._became_ready.wait_for(lambda: self._ready or self._pages_short > 0, timeout_s)
            taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._learner_moved.set()
        return taken

    def take_shortage(self) -> int:
        """Pages that inference lacked when it last asked for room; says so once."""
        short, self._pages_short = max(0, self._pages_short), 0
        return short

    def owners(self, pages: Links) -> list[int]:
        """env_ids of the environments that wrote these pages, which are not released yet.

        NO_ENVIRONMENT (`seed.store.pages`) where it was one of an earlier process.
        """
        return self._table.owners(pages)

    def release(self, pages: Links) -> None:
        """Hands pages back once no copy of them is needed or under way any more."""
        self._released.put(pages)
        self._learner_moved.set()

    def gather(self, pages: Links) -> Unroll:
        """Copies the unrolls of B pages out of the store, with burn-in and frame stacks.

        Args:
            pages: Their links.
        """
        layout = self.layout
        rows, links = self._unroll_rows(pages, layout.context_rows)
        index = rows[layout.context_rows - layout.burn_in :]  # [K + T + 1, B] int64
        seen = index
        if layout.frame_stack > 1:
            ages = self._take("ages", index)  # [K + T + 1, B] uint8
            windows = rows.unfold(0, layout.frame_stack, 1)[-len(index) :]
            # [K + T + 1, B, stack] int64
            seen = torch.where(ages[..., None] >= self._back, windows, self._zero_row)
        state_pages = links[:, 0 if layout.burn_in else 1]
        state_pages = torch.where(state_pages < 0, layout.num_pages, state_pages)
        return self._unroll(
            rows[-len(index) - 1 :],
            self._take("observations", seen),
            self._page_states.index_select(0, state_pages),
            layout.burn_in,
        )

    def gather_without_observations(self, pages: Links) -> Unroll:
        """Copies what acting kept of the unrolls of B pages.

        Burn-in, observations (`[T + 1, B, 0]`) and recurrent states (`[B, 0]`) are left out.
        """
        rows, links = self._unroll_rows(pages, context=1)
        nothing = self._page_states.new_empty(len(rows) - 1, len(links), 0)
        return self._unroll(rows, nothing, nothing[0], burn_in=0)

    def _unroll(
        self, rows: Tensor, observations: Tensor, agent_state: Tensor, burn_in: int
    ) -> Unroll:
        """The unroll of flat rows `[1 + n, B]`, the first of which only has a previous action."""
        index = rows[1:]
        first = self._take("ages", index) == 0
        previous = torch.where(first, self._zero_row, rows[:-1])
        return Unroll(
            rows=Rows(
                observations=observations,
                previous_actions=self._take("actions", previous),
                rewards=self._take("rewards", index),
                terminated=self._take("terminated", index),
                truncated=self._take("truncated", index),
                first=first,
            ),
            actions=self._take("actions", index),
            behaviour={
                name: self._take(f"behaviour.{name}", index) for name in self.layout.behaviour
            },
            policy_versions=self._take("policy_versions", index).long(),
            agent_state=agent_state,
            importance=torch.ones(index.shape[1], device=self.device),
            burn_in=burn_in,
        )

    def _unroll_rows(self, pages: Links, context: int) -> tuple[Tensor, Tensor]:
        """Flat rows `[context + T + 1, B]` of these pages' unrolls, and the links `[B, 3]`."""
        length = self.layout.unroll_length
        links = torch.as_tensor(pages, dtype=torch.int64, device=self.device).reshape(-1, 3)
        predecessor, page, successor = links.T
        within = torch.arange(length, device=self.device)[:, None]
        before = predecessor * length + within[length - context :]
        before = torch.where(predecessor < 0, self._zero_row, before)
        return torch.cat([before, page * length + within, successor[None] * length]), links

    def _take(self, column: str, index: Tensor) -> Tensor:
        """The rows of a column at a flat index of any shape: `[*index.shape, *row shape]`."""
        values = self._columns[column]
        taken = values.new_empty(index.numel(), *values.shape[1:], pin_memory=self._pinned)
        torch.index_select(values, 0, index.reshape(-1), out=taken)
        return taken.view(*index.shape, *values.shape[1:])
