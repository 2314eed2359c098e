"""Rows into a store without the buffers that inference keeps for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed.pages import PageLinks
from seed.places import Places, places_size, split_places
from seed.rows import Arrived
from seed.unrolls import UnrollStore


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
