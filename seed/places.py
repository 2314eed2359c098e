"""Where the rows of one inference batch go in the store, worked out on the host.

All of it is one block of int64, copied to the store's device at once; the device only copies rows.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from seed.layout import StoreLayout
from seed.pages import Placed

Int64Array = npt.NDArray[np.int64]
Numbers = TypeVar("Numbers", Int64Array, Tensor)


class Places(NamedTuple, Generic[Numbers]):
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


def places_size(layout: StoreLayout) -> int:
    """Numbers in the places of one row."""
    return 4 + layout.frame_stack


def split_places(block: Numbers, layout: StoreLayout) -> Places[Numbers]:
    """Places that share the memory of a block of `places_size` numbers a row."""
    n = len(block) // places_size(layout)
    return Places(
        block[:n], block[n : 2 * n], block[2 * n : 3 * n], block[3 * n : 4 * n],
        block[4 * n :].reshape(n, layout.frame_stack),
    )  # fmt: skip


def fill_places(
    places: Places[Int64Array],
    layout: StoreLayout,
    placed: Placed,
    ages: Int64Array,
    predecessors: Int64Array,
) -> None:
    """Fills in places for n rows or more; those beyond the n are scratch.

    Args:
        places: To be filled in.
        layout: Of the store.
        placed: What the page table says of the n rows.
        ages: Rows since the start of each one's episode. `[n] int64`
        predecessors: Page before each one's page. `[n] int64`
    """
    n, offsets, length = len(ages), placed.offsets, layout.unroll_length
    rows = placed.pages * length + offsets
    in_predecessor = (predecessors + 1) * length + offsets

    def rows_back(back: Int64Array | int) -> Int64Array:
        """Flat rows `back` rows before each; the zero row beyond the episode's start."""
        before = np.where(offsets[:, None] >= back, rows[:, None], in_predecessor[:, None]) - back
        return np.where(ages[:, None] >= back, before, layout.zero_row)

    places.rows[:n], places.rows[n:] = rows, layout.scratch_row
    places.previous[:n], places.previous[n:] = rows_back(1)[:, 0], layout.zero_row
    places.ages[:n], places.ages[n:] = ages, 0
    places.state_pages[:] = layout.scratch_page
    kept = np.flatnonzero(offsets == layout.state_row)
    places.state_pages[kept] = placed.pages[kept]
    places.seen[:n] = rows_back(np.arange(layout.frame_stack - 1, -1, -1))
    places.seen[n:] = layout.scratch_row
