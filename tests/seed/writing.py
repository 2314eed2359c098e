"""Rows into a store without the buffers that inference keeps for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed.store.pages import PageLinks
from seed.store.row_index import RowIndex, row_index_size, split_row_index
from seed.store.rows import Arrivals, Rows
from seed.store.unrolls import UnrollStore


def write_rows(
    store: UnrollStore,
    env_ids: npt.NDArray[Any],
    run_ids: npt.NDArray[Any],
    first: npt.NDArray[Any],
    arrived: Arrivals,
) -> tuple[RowIndex[Tensor], list[PageLinks]]:
    """The new rows' places on the store's device, and the pages that are whole with them."""
    numbers = np.empty(row_index_size(store.layout) * len(env_ids), np.int64)
    complete = store.allocate_rows(env_ids, run_ids, first, split_row_index(numbers, store.layout))
    row_index = split_row_index(torch.from_numpy(numbers).to(store.device), store.layout)
    store.write_arrivals(row_index, arrived)
    return row_index, complete


def read_rows(store: UnrollStore, row_index: RowIndex[Tensor], arrived: Arrivals) -> Rows:
    """What the agent sees at rows that have been filled: `[1, n, ...]`."""
    n, action = len(row_index.rows), store.layout.action
    observations = dict(arrived.observations)
    for part, form in store.layout.observations.items():
        if stack := store.layout.stack_shape(part):
            observations[part] = torch.empty(n, *stack, *form.shape, dtype=form.dtype)
    rows = Rows(
        observations={part: values[None] for part, values in observations.items()},
        previous_actions=torch.empty(1, n, *action.shape, dtype=action.dtype),
        rewards=arrived.rewards[None],
        terminated=arrived.terminated[None],
        truncated=arrived.truncated[None],
        first=(row_index.ages == 0)[None],
    )
    store.read_inputs(row_index, rows)
    return rows
