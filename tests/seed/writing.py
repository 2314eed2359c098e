"""Rows into a store without the buffers that inference keeps for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed.store.pages import PageLinks
from seed.store.row_index import Places, places_size, split_places
from seed.store.rows import Arrived, Rows
from seed.store.unrolls import UnrollStore


def place_and_fill(
    store: UnrollStore,
    env_ids: npt.NDArray[Any],
    run_ids: npt.NDArray[Any],
    first: npt.NDArray[Any],
    arrived: Arrived,
) -> tuple[Places[Tensor], list[PageLinks]]:
    """The new rows' places on the store's device, and the pages that are whole with them."""
    block = np.empty(places_size(store.layout) * len(env_ids), np.int64)
    complete = store.place(env_ids, run_ids, first, split_places(block, store.layout))
    places = split_places(torch.from_numpy(block).to(store.device), store.layout)
    store.fill(places, arrived)
    return places, complete


def see(store: UnrollStore, places: Places[Tensor], arrived: Arrived) -> Rows:
    """What the agent sees at rows that have been filled: `[1, n, ...]`."""
    n, stack = len(places.rows), store.layout.frame_stack
    observation, action = store.layout.observation, store.layout.action
    if stack > 1:
        observations = torch.empty(n, stack, *observation.shape, dtype=observation.dtype)
    else:
        assert arrived.observations is not None
        observations = arrived.observations
    rows = Rows(
        observations=observations[None],
        previous_actions=torch.empty(1, n, *action.shape, dtype=action.dtype),
        rewards=arrived.rewards[None],
        terminated=arrived.terminated[None],
        truncated=arrived.truncated[None],
        first=(places.ages == 0)[None],
    )
    store.see(places, rows)
    return rows
