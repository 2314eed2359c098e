"""The paged store: rows in, unrolls out, every row stored once.

One page is T consecutive rows of one environment. Row (page, t) lies at flat index page * T + t of
each column; one more row, all zeros, stands in for what lies before an episode's start. An unroll
is a page, the first row of its successor (for the bootstrap value), and as context the last rows
of its predecessor (frame stacks, the previous action).

The inference thread writes and owns the page table. The learner's thread gets the links of whole
pages from `take`, copies their rows with `gather`, and hands the pages back with `release`.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed.pages import PageLinks, PageTable

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """What an agent sees. Leading dimensions `[T, B]`; in inference T is 1.

    Attributes:
        observations: `[T, B, *shape]`, or `[T, B, stack, *shape]` with the newest frame last.
        previous_actions: Chosen at the row before; zero at the first row of an episode.
        rewards: Arrived with the observation, as the environment gave them. `[T, B] float32`
        terminated: The episode ended here, and what follows is worth zero. `[T, B] bool`
        truncated: The episode was cut off here, and what follows has a value. `[T, B] bool`
        first: First row of an episode, or of a history that broke. `[T, B] bool`
    """

    observations: Tensor
    previous_actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    first: Tensor


@dataclass(frozen=True)
class Unroll:
    """B unrolls as the learner sees them; T + 1 rows, row T only for the bootstrap value.

    Attributes:
        rows: `[T + 1, B, ...]`
        actions: Chosen from each row's observation. `[T + 1, B, ...]`
        behaviour: What the acting policy said at each row, by name. `[T + 1, B, ...]`
        policy_versions: Version of the weights that acted. `[T + 1, B] int64`
        agent_state: Recurrent state before row 0. `[B, S] float32`
    """

    rows: Rows
    actions: Tensor
    behaviour: dict[str, Tensor]
    policy_versions: Tensor
    agent_state: Tensor


class Column(NamedTuple):
    """Form of one stored quantity: the shape of one row of it, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class StoreLayout:
    """Everything that fixes the store's size.

    Attributes:
        unroll_length: T, the rows of a page.
        num_pages: Pages in all.
        max_envs: Environments that may write at a time.
        frame_stack: Newest observations that the network sees together; 1 for one.
        state_size: Numbers of an environment's recurrent state (S).
        observation: Form of one stored observation.
        action: Form of one action.
        behaviour: Form of what the algorithm keeps of its acting policy, by name.
    """

    unroll_length: int
    num_pages: int
    max_envs: int
    frame_stack: int
    state_size: int
    observation: Column
    action: Column
    behaviour: Mapping[str, Column]


class Arrived(NamedTuple):
    """What environments sent for one row each, all on the store's device.

    Attributes:
        observations: `[n, *shape]`
        rewards: `[n] float32`
        terminated: `[n] bool`
        truncated: `[n] bool`
    """

    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor


class NewRows(NamedTuple):
    """The places of one inference batch's rows.

    Attributes:
        places: Flat row of each. `[n] int64`
        begun: Places in the batch of the rows that begin a page. `[k] int64`
        begun_pages: The pages that those begin. `[k] int64`
        complete: Pages that are whole once this batch has been written.
    """

    places: Tensor
    begun: Tensor
    begun_pages: Tensor
    complete: list[PageLinks]


class UnrollStore:
    """Columns of rows on one device, the page table over them, and the queue of whole pages."""

    def __init__(self, layout: StoreLayout, device: torch.device) -> None:
        """Reserves the memory; `nbytes` says how much."""
        self.layout = layout
        self.device = device
        self._zero_row = layout.num_pages * layout.unroll_length
        # Rows back in time from a frame stack's oldest to its newest. [stack] int64
        self._back = torch.arange(layout.frame_stack - 1, -1, -1, device=device)
        self._table = PageTable(layout.num_pages, layout.unroll_length, layout.max_envs)
        self._ready: deque[PageLinks] = deque()
        self._became_ready = threading.Condition()
        self._released: queue.SimpleQueue[list[PageLinks]] = queue.SimpleQueue()
        self._observations = self._column(layout.observation)
        self._actions = self._column(layout.action)
        self._rewards = self._column(Column((), torch.float32))
        self._terminated = self._column(Column((), torch.bool))
        self._truncated = self._column(Column((), torch.bool))
        # Rows since the episode's first: says where an episode starts and where stacks end.
        self._ages = self._column(Column((), torch.uint8))
        self._policy_versions = self._column(Column((), torch.int32))
        self._behaviour = {name: self._column(form) for name, form in layout.behaviour.items()}
        # [pages, S] float32: the recurrent state before each page's row 0
        self._page_states = torch.zeros(layout.num_pages, layout.state_size, device=device)

    def _column(self, form: Column) -> Tensor:
        # [pages * T + 1, *shape]; empty, so that pages never used take no memory on the CPU
        column = torch.empty(self._zero_row + 1, *form.shape, dtype=form.dtype, device=self.device)
        column[self._zero_row] = 0
        return column

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        columns = [self._observations, self._actions, self._rewards, self._terminated,
                   self._truncated, self._ages, self._policy_versions, self._page_states,
                   *self._behaviour.values()]  # fmt: skip
        return sum(column.nbytes for column in columns)

    # --- the inference thread's side -------------------------------------------------------------

    def has_room(self, env_ids: Int64Array, run_ids: npt.NDArray[np.uint64]) -> bool:
        """Whether a new row of each of these environments can be stored now."""
        while not self._released.empty():
            self._table.consume(self._released.get())
        return self._table.pages_needed(env_ids, run_ids) <= self._table.num_free

    def wait_for_release(self, timeout_s: float) -> None:
        """Returns once the learner has handed pages back, or after the timeout."""
        try:
            self._table.consume(self._released.get(timeout=timeout_s))
        except queue.Empty:
            return

    def write(
        self,
        env_ids: Int64Array,
        run_ids: npt.NDArray[np.uint64],
        first: BoolArray,
        arrived: Arrived,
    ) -> tuple[NewRows, Rows]:
        """Stores what arrived, one row of each environment, and returns what the agent sees.

        The environments are all different and `has_room` holds. A run_id other than the
        environment's last one breaks its history: the open page is dropped.

        Returns:
            The rows' places, to be passed to `write_acts`, and the rows `[1, n, ...]`.
        """
        length = self.layout.unroll_length
        placed = self._table.advance(env_ids, run_ids, first)
        begun = np.flatnonzero(placed.offsets == 0)
        # [5, n] int64: one transfer for all that the device must know of the places
        places = torch.from_numpy(
            np.stack([
                placed.pages * length + placed.offsets, placed.offsets, self._table.ages[env_ids],
                self._table.predecessors[placed.pages] * length + length, placed.pages,
            ])
        ).to(self.device)  # fmt: skip
        index, offsets, ages, predecessor_ends, pages = places
        begun_at = torch.from_numpy(begun).to(self.device)
        self._observations.index_copy_(0, index, arrived.observations)
        self._rewards.index_copy_(0, index, arrived.rewards)
        self._terminated.index_copy_(0, index, arrived.terminated)
        self._truncated.index_copy_(0, index, arrived.truncated)
        self._ages.index_copy_(0, index, ages.to(torch.uint8))
        new = NewRows(index, begun_at, pages[begun_at], placed.complete)
        return new, self._seen(arrived, index, offsets, ages, predecessor_ends)

    def _seen(
        self, arrived: Arrived, index: Tensor, offsets: Tensor, ages: Tensor, ends: Tensor
    ) -> Rows:
        def rows_back(back: Tensor) -> Tensor:
            """Flat rows `back` rows before each; the zero row beyond the episode's start."""
            inside = index[:, None] - back
            outside = ends[:, None] + offsets[:, None] - back
            rows = torch.where(offsets[:, None] >= back, inside, outside)
            return torch.where(ages[:, None] >= back, rows, self._zero_row)

        observations = arrived.observations
        if self.layout.frame_stack > 1:
            observations = self._take(self._observations, rows_back(self._back))
        previous = rows_back(torch.ones(1, dtype=torch.int64, device=self.device))[:, 0]
        return Rows(
            observations=observations[None],
            previous_actions=self._actions.index_select(0, previous)[None],
            rewards=arrived.rewards[None],
            terminated=arrived.terminated[None],
            truncated=arrived.truncated[None],
            first=(ages == 0)[None],
        )

    def write_acts(
        self,
        new: NewRows,
        actions: Tensor,
        behaviour: Mapping[str, Tensor],
        agent_states: Tensor,
        policy_version: int,
    ) -> None:
        """Stores what the agent did at rows that `write` has placed.

        Args:
            new: From `write`.
            actions: `[n, ...]`
            behaviour: `[n, ...]` each.
            agent_states: Recurrent state before each row. `[n, S] float32`
            policy_version: Version of the weights that acted.
        """
        self._actions.index_copy_(0, new.places, actions)
        for name, values in behaviour.items():
            self._behaviour[name].index_copy_(0, new.places, values)
        self._policy_versions.index_fill_(0, new.places, policy_version)
        if self.layout.state_size:
            self._page_states.index_copy_(0, new.begun_pages, agent_states[new.begun])

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

    def take(self, count: int, timeout_s: float) -> list[PageLinks] | None:
        """The `count` oldest whole pages, or None if there are not so many before the timeout."""
        with self._became_ready:
            if not self._became_ready.wait_for(lambda: len(self._ready) >= count, timeout_s):
                return None
            return [self._ready.popleft() for _ in range(count)]

    def release(self, pages: list[PageLinks]) -> None:
        """Hands pages back once `gather`'s copies of them are complete."""
        self._released.put(pages)

    def gather(self, pages: Sequence[PageLinks]) -> Unroll:
        """Copies the unrolls of B pages out of the store, with their frame stacks rebuilt."""
        context = max(1, self.layout.frame_stack - 1)
        rows, page_numbers = self._unroll_rows(pages, context)
        index = rows[context:]  # [T + 1, B] int64
        ages = self._take(self._ages, index)  # [T + 1, B] uint8
        first = ages == 0
        previous = torch.where(first, self._zero_row, rows[context - 1 : -1])
        seen = index
        if self.layout.frame_stack > 1:
            windows = rows.unfold(0, self.layout.frame_stack, 1)  # [T + 1, B, stack] int64
            seen = torch.where(ages[..., None] >= self._back, windows, self._zero_row)
        return Unroll(
            rows=Rows(
                observations=self._take(self._observations, seen),
                previous_actions=self._take(self._actions, previous),
                rewards=self._take(self._rewards, index),
                terminated=self._take(self._terminated, index),
                truncated=self._take(self._truncated, index),
                first=first,
            ),
            actions=self._take(self._actions, index),
            behaviour={name: self._take(kept, index) for name, kept in self._behaviour.items()},
            policy_versions=self._take(self._policy_versions, index).long(),
            agent_state=self._page_states.index_select(0, page_numbers),
        )

    def _unroll_rows(self, pages: Sequence[PageLinks], context: int) -> tuple[Tensor, Tensor]:
        """Flat rows `[context + T + 1, B]` of these pages' unrolls, and the page numbers `[B]`."""
        length = self.layout.unroll_length
        predecessor, page, successor = np.array(pages, np.int64).reshape(-1, 3).T
        before = predecessor * length + np.arange(length - context, length)[:, None]
        within = page * length + np.arange(length)[:, None]
        # Without a predecessor `before` is negative; the ages hide those rows wherever it matters.
        rows = np.concatenate([np.maximum(before, 0), within, successor[None] * length])
        return torch.from_numpy(rows).to(self.device), torch.from_numpy(page).to(self.device)

    def _take(self, column: Tensor, index: Tensor) -> Tensor:
        """The rows at a flat index of any shape: `[*index.shape, *row shape]`."""
        taken = column.index_select(0, index.reshape(-1))
        return taken.view(*index.shape, *column.shape[1:])
