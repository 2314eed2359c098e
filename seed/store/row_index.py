"""Where the rows of one inference batch go in the store, worked out on the host.

All of it is one block of int64, copied to the store's device at once; the device only copies rows.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from seed.store.layout import StoreLayout
from seed.store.pages import PageSlots
from seed.wire.arrays import Int64Array

Numbers = TypeVar("Numbers", Int64Array, Tensor)


class RowIndex(NamedTuple, Generic[Numbers]):
    """Where each row goes, and where what the agent sees there comes from.

    Attributes:
        rows: Flat row of each. `[n] int64`
        previous: Flat row whose action is the previous one. `[n] int64`
        ages: Rows since the episode's first. `[n] int64`
        state_pages: Page that keeps the recurrent state before the row; the scratch page where
            none does. `[n] int64`
        seen: Flat rows that the network sees together, the newest last. `[n, stack] int64`
    """

    rows: Numbers
    previous: Numbers
    ages: Numbers
    state_pages: Numbers
    seen: Numbers


def row_index_size(layout: StoreLayout) -> int:
    """Numbers in the index of one row."""
    return 4 + layout.frame_stack


def split_row_index(block: Numbers, layout: StoreLayout) -> RowIndex[Numbers]:
    """An index in the memory of a block of `row_index_size` numbers a row."""
    n = len(block) // row_index_size(layout)
    return RowIndex(
        block[:n], block[n : 2 * n], block[2 * n : 3 * n], block[3 * n : 4 * n],
        block[4 * n :].reshape(n, layout.frame_stack),
    )  # fmt: skip


def fill_row_index(row_index: RowIndex[Int64Array], layout: StoreLayout, slots: PageSlots) -> None:
    """Fills in the index of n rows or more; those beyond the n are scratch.

    Args:
        row_index: To be filled in.
        layout: Of the store.
        slots: What the page table says of the n rows.
    """
    n = len(slots.pages)
    if n < len(row_index.rows):
        _scratch(row_index, layout, n)
    rows = slots.pages * layout.unroll_length
    rows += slots.offsets
    row_index.rows[:n], row_index.ages[:n] = rows, slots.ages
    row_index.seen[:n, -1] = rows
    # Rows before a page's first are the last of the page before.
    jump = slots.predecessors + 1 - slots.pages
    jump *= layout.unroll_length
    stack = layout.frame_stack
    for back in range(1, max(2, stack)):
        before = rows - back
        before += np.where(slots.offsets < back, jump, 0)
        before = np.where(slots.ages < back, layout.zero_row, before)
        if back == 1:
            row_index.previous[:n] = before
        if back < stack:
            row_index.seen[:n, -1 - back] = before
    row_index.state_pages[:n] = layout.scratch_page
    if layout.state_size:
        kept = np.flatnonzero(slots.offsets == layout.state_row)
        row_index.state_pages[kept] = slots.pages[kept]


def _scratch(row_index: RowIndex[Int64Array], layout: StoreLayout, start: int) -> None:
    """Sends rows from `start` on to where nobody reads."""
    row_index.rows[start:] = row_index.seen[start:] = layout.scratch_row
    row_index.previous[start:] = layout.zero_row
    row_index.ages[start:] = 0
    row_index.state_pages[start:] = layout.scratch_page
