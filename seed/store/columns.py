"""The memory of all rows: one tensor per stored quantity, on one device.

Row (page, t) lies at flat index page * T + t of each column. After the pages come a row of zeros,
which stands in for what lies before an episode's start, and the scratch row, which takes what
nobody will read. Recurrent states have a column with one row per page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from seed.store.layout import SPARE_ROWS, Column, StoreLayout, observation_column
from seed.store.row_index import RowIndex
from seed.store.rows import Arrivals, Rows
from seed.wire.arrays import Int64Array

AGENT_STATES = "agent_states"


class Columns:
    """Rows written and read at flat indices; the inference thread writes, both threads read.

    Attributes:
        layout: The columns' form.
        device: Where they are.
        tensors: By name: `[pages * T + 2, *shape]`, `agent_states` `[pages + 2, S]`.
    """

    def __init__(self, layout: StoreLayout, device: torch.device, *, pinned: bool = False) -> None:
        """Reserves the memory; `pinned` copies rows to where a GPU copies from without waiting."""
        self.layout = layout
        # A tensor's own device: "cuda" would be another GPU in a thread that works on another.
        self.device = torch.empty(0, device=device).device
        # Copies only: torch rounds pinned blocks up to powers of two, which could double the store.
        self._pinned = pinned
        forms = [(name, layout.zero_row, form) for name, form in layout.columns.items()]
        states = Column((layout.state_size,), torch.float32)
        forms.append((AGENT_STATES, layout.num_pages, states))
        self.tensors = {name: self._reserve(rows, form) for name, rows, form in forms}
        # The same memory for NumPy, which copies whole rows where torch copies element by element.
        self._host = {
            name: column.numpy()
            for name, column in self.tensors.items()
            if self.device.type == "cpu" and column.dtype != torch.bfloat16
        }
        self._host_observations = {
            part: self._host[name]
            for part in layout.observations
            if (name := observation_column(part)) in self._host
        }

    def _reserve(self, rows: int, form: Column) -> Tensor:
        """A column `[rows + SPARE_ROWS, *shape]` whose spare rows are zero."""
        # Empty, so that pages never used take no memory on the CPU.
        column = torch.empty(rows + SPARE_ROWS, *form.shape, dtype=form.dtype, device=self.device)
        column[rows:] = 0
        return column

    def write_observations(
        self, part: str, rows: Int64Array, observations: npt.NDArray[Any]
    ) -> None:
        """Copies a part `[n, *shape]` to its flat rows `[n]`; for columns on the CPU."""
        self._host_observations[part][rows] = observations

    def write_arrivals(self, row_index: RowIndex[Tensor], arrived: Arrivals) -> None:
        """Writes what environments sent, one row of each."""
        values = {
            "rewards": arrived.rewards,
            "terminated": arrived.terminated,
            "truncated": arrived.truncated,
            "ages": row_index.ages,
        }
        for part, observations in arrived.observations.items():
            values[observation_column(part)] = observations
        self._write(row_index.rows, values)

    def write_actions(
        self,
        row_index: RowIndex[Tensor],
        actions: Tensor,
        behaviour: Mapping[str, Tensor],
        agent_states: Tensor,
        policy_version: Tensor,
    ) -> None:
        """Writes what the agent did at rows whose arrivals are written.

        Args:
            row_index: Of those rows.
            actions: `[n, ...]`
            behaviour: `[n, ...]` each.
            agent_states: Recurrent state before each row. `[n, S] float32`
            policy_version: Version of the weights that acted. `[] int32`
        """
        values = {f"behaviour.{name}": value for name, value in behaviour.items()}
        versions = policy_version.expand(len(row_index.rows))
        self._write(row_index.rows, {**values, "actions": actions, "policy_versions": versions})
        if self.layout.state_size:
            self._write(row_index.state_pages, {AGENT_STATES: agent_states})

    def clear_actions(self, row_index: RowIndex[Tensor]) -> None:
        """Writes zeros where `write_actions` writes, but for recurrent states: nothing was done.

        Until the agent acts at these rows nothing of what lay there before is read as data.
        """
        rows = row_index.rows
        for name, form in self.layout.columns.items():
            if name in ("actions", "policy_versions") or name.startswith("behaviour."):
                zeros = torch.zeros(len(rows), *form.shape, dtype=form.dtype, device=self.device)
                self._write(rows, {name: zeros})

    def _write(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Copies values `[n, *shape]` to these rows `[n] int64` of their columns."""
        host_rows = rows.numpy() if self._host else None
        for name, value in values.items():
            if name in self._host:
                self._host[name][host_rows] = value.numpy()
            else:
                column = self.tensors[name]
                column.index_copy_(0, rows, value.to(column.dtype))

    def read_inputs(self, row_index: RowIndex[Tensor], rows: Rows) -> None:
        """Reads stacks and previous actions `[1, n, ...]` of rows whose arrivals are written."""
        for part, observations in rows.observations.items():
            if self.layout.stack_shape(part):
                self._read(observation_column(part), row_index.seen, observations)
        self._read("actions", row_index.previous, rows.previous_actions)

    def _read(self, name: str, index: Tensor, out: Tensor) -> None:
        """Copies rows at a flat index of any shape to memory of as many rows."""
        values = self.tensors[name]
        out = out.view(*index.shape, *values.shape[1:])
        if name in self._host:
            # "clip" writes to `out` without a buffer between; no number is out of range.
            self._host[name].take(index.numpy(), 0, out=out.numpy(), mode="clip")
        else:
            torch.index_select(values, 0, index.view(-1), out=out.view(-1, *values.shape[1:]))

    def copy_rows(self, name: str, index: Tensor) -> Tensor:
        """Rows at a flat index of any shape, in memory of their own: `[*index.shape, *shape]`."""
        values = self.tensors[name]
        taken = values.new_empty(index.numel(), *values.shape[1:], pin_memory=self._pinned)
        torch.index_select(values, 0, index.reshape(-1), out=taken)
        return taken.view(*index.shape, *values.shape[1:])
