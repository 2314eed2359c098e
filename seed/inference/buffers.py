"""The memory of inference batches: what arrives, what the agent sees, and what goes back.

It stays where it is, so that work on it can be captured in CUDA graphs. On a CPU, what is filled in
on the host and what is computed with are the same memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from seed.contract import Fleet
from seed.store.layout import Column, StoreLayout
from seed.store.row_index import RowIndex, row_index_size, split_row_index
from seed.store.rows import Arrivals, Rows
from seed.wire.arrays import BoolArray, Float32Array, Int64Array

_MARKS = 4


class HostBatch(NamedTuple):
    """What the host fills in for a batch of n rows, padding included.

    Attributes:
        env_ids: Environment of each row. `[n] int64`
        row_index: Where it goes in the store, and which older rows are seen with it.
        rewards: `[n] float32`
        fleet_positions: Its position in the fleet. `[n] float32`
        marks: `terminated`, `truncated`, `first`, and whether it is an evaluation environment.
            `[4, n] bool`
        observations: By part, `[n, *shape]`; without those that go straight from messages to the
            store, as they do where that is on the CPU and stacks are read out of it.
    """

    env_ids: Int64Array
    row_index: RowIndex[Int64Array]
    rewards: Float32Array
    fleet_positions: Float32Array
    marks: BoolArray
    observations: dict[str, npt.NDArray[Any]]


class DeviceBatch(NamedTuple):
    """A batch of n rows, padding included, on the store's device; always the same memory.

    Attributes:
        host: What to fill in.
        copies: Tensors and what is to be copied to them from the host, where those differ.
        env_ids: `[n] int64`
        row_index: Where the rows go in the store, and which older ones are seen with them.
        arrived: What arrived for them.
        rows: What the agent sees; observations and previous actions are read from the store.
            `[1, n, ...]`
        fleet: The positions of the rows' environments in the fleet.
        actions: Host memory for what comes back. `[n, *shape]`
    """

    host: HostBatch
    copies: list[tuple[Tensor, Tensor]]
    env_ids: Tensor
    row_index: RowIndex[Tensor]
    arrived: Arrivals
    rows: Rows
    fleet: Fleet
    actions: Tensor


class BatchBuffers:
    """Memory for the largest batch, of which smaller ones have a part."""

    def __init__(self, layout: StoreLayout, max_batch: int, device: torch.device) -> None:
        """Reserves it, on the host and, where the store is on a GPU, there."""
        self._layout = layout
        self._staged = device.type == "cuda"
        forms, action = layout.observations, layout.action
        stacked = [part for part in forms if layout.stack_shape(part)]
        # Without a stack what arrives is what the agent sees.
        self._landing = [part for part in forms if self._staged or part not in stacked]

        def on_host(form: Column, rows: int = max_batch) -> Tensor:
            """Zeros `[rows, *shape]` in host memory, pinned where they are copied to a GPU."""
            return torch.zeros(rows, *form.shape, dtype=form.dtype, pin_memory=self._staged)

        # [max_batch * (1 + row_index_size)] int64, [2 * max_batch] float32, [4 * max_batch] bool,
        # [max_batch, *shape] for each part in `_landing`
        self._host = (
            on_host(Column((), torch.int64), max_batch * (1 + row_index_size(layout))),
            on_host(Column((), torch.float32), 2 * max_batch),
            on_host(Column((), torch.bool), _MARKS * max_batch),
            *(on_host(forms[part]) for part in self._landing),
        )
        self._on_device = tuple(
            torch.zeros_like(host, device=device) if self._staged else host
            for host in self._host
        )
        # [max_batch, stack, *shape] by part
        self._seen = {
            part: torch.zeros(
                max_batch, *layout.stack_shape(part), *forms[part].shape,
                dtype=forms[part].dtype, device=device,
            )
            for part in stacked
        }  # fmt: skip
        # [max_batch, *shape]
        self._previous = torch.zeros(
            max_batch, *action.shape, dtype=action.dtype, device=device
        )
        self._actions = on_host(action)  # [max_batch, *shape]

    def batch(self, size: int) -> DeviceBatch:
        """The parts for batches of this size, padding included."""
        layout = self._layout
        ends = [(1 + row_index_size(layout)) * size, 2 * size, _MARKS * size]
        ends += [size] * len(self._landing)
        host = [buffer[:end] for buffer, end in zip(self._host, ends, strict=True)]
        device = [buffer[:end] for buffer, end in zip(self._on_device, ends, strict=True)]
        numbers, reals, marks, *landing = device
        landed = dict(zip(self._landing, landing, strict=True))
        rewards, fleet_positions = reals.view(2, size)
        terminated, truncated, first, evaluation = marks.view(_MARKS, size)
        seen = {
            part: self._seen[part][:size] if part in self._seen else landed[part]
            for part in layout.observations
        }
        return DeviceBatch(
            host=self._host_batch(host, size),
            copies=list(zip(device, host, strict=True)) if self._staged else [],
            env_ids=numbers[:size],
            row_index=split_row_index(numbers[size:], layout),
            arrived=Arrivals(landed if self._staged else {}, rewards, terminated, truncated),
            rows=Rows(
                {part: values[None] for part, values in seen.items()}, self._previous[None, :size],
                rewards[None], terminated[None], truncated[None], first[None],
            ),
            fleet=Fleet(fleet_positions, evaluation),
            actions=self._actions[:size],
        )  # fmt: skip

    def _host_batch(self, buffers: list[Tensor], size: int) -> HostBatch:
        numbers, reals, marks, *landing = (buffer.numpy() for buffer in buffers)
        rewards, fleet_positions = reals.reshape(2, size)
        return HostBatch(
            numbers[:size], split_row_index(numbers[size:], self._layout), rewards,
            fleet_positions, marks.reshape(_MARKS, size),
            dict(zip(self._landing, landing, strict=True)),
        )  # fmt: skip
