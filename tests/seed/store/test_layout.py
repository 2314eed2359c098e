"""Where histories begin, so that unrolls end one by one and still have all their context."""

from __future__ import annotations

import numpy as np
import torch

from seed.store.layout import Column, StoreLayout


def make_layout(unroll_length: int, **others: int) -> StoreLayout:
    fields = {"max_envs": 8, "frame_stack": 1, "burn_in": 0, "staggered": True} | others
    nothing = Column((), torch.float32)
    return StoreLayout(
        unroll_length=unroll_length, num_pages=1, state_size=0, observations={"": nothing},
        action=nothing, behaviour={}, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def test_first_pages_begin_at_different_rows() -> None:
    assert make_layout(20).first_offsets.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert make_layout(3).first_offsets.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert make_layout(20, staggered=False).first_offsets.tolist() == [0] * 8


def test_first_pages_hold_the_context_of_the_next() -> None:
    for others in ({"frame_stack": 4}, {"burn_in": 5, "frame_stack": 4}, {"burn_in": 7}):
        layout = make_layout(9, max_envs=30, **others)
        rows_left = 9 - layout.first_offsets
        assert rows_left.min() == layout.context_rows
        # The state that the next page's burn-in starts from is of a row that is written.
        assert (layout.first_offsets <= 9 - layout.burn_in).all()


def test_a_page_that_is_all_context_begins_at_its_first_row() -> None:
    assert not np.any(make_layout(3, frame_stack=4).first_offsets)
