"""A model of the store that keeps every row of every history in a plain list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from seed.store.layout import Column, StoreLayout
from seed.store.rows import Arrivals, Rows, Unroll
from seed.store.unrolls import UnrollStore
from tests.seed.writing import read_rows, write_rows

CPU = torch.device("cpu")
LAYOUT = StoreLayout(
    unroll_length=3,
    num_pages=24,
    max_envs=24,
    frame_stack=3,
    state_size=2,
    observations={"hand/camera": Column((2,), torch.int64), "speed": Column((), torch.int64)},
    action=Column((), torch.int64),
    behaviour={"logits": Column((3,), torch.float32), "value": Column((), torch.float32)},
    stacked=frozenset(["hand/camera"]),
)


@dataclass
class Row:
    """What one environment sent and what was chosen there; every number is unique."""

    number: int
    first: bool
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def camera(self) -> list[int]:
        return [self.number, -self.number]

    @property
    def speed(self) -> int:
        return self.number * 3

    @property
    def action(self) -> int:
        return self.number * 10

    @property
    def logits(self) -> list[float]:
        return [self.number * 0.25, self.number * 0.5, self.number * 0.75]

    @property
    def value(self) -> float:
        return self.number * 1.5

    @property
    def state(self) -> list[float]:
        return [self.number * 2.5, self.number * 3.5]


# What stands before a history's first row.
NOTHING = Row(0, first=True)


@dataclass
class History:
    """One environment's rows between two breaks.

    Attributes:
        start: Row of its first page at which it begins.
        read: Unrolls that have been read for the last time, or that nobody reads.
        open: Whether more rows may come.
    """

    env_id: int
    run_id: int
    start: int
    rows: list[Row] = field(default_factory=list)
    read: int = 0
    open: bool = True

    def pages(self, length: int) -> int:
        return -(-(self.start + len(self.rows)) // length)

    def begins_page(self, length: int) -> bool:
        """Whether its next row does."""
        return not self.rows or (self.start + len(self.rows)) % length == 0


class Whole(NamedTuple):
    """An unroll: its history, and how many rows that had with the unroll's last."""

    history: History
    num_rows: int

    @property
    def rows(self) -> list[Row]:
        return self.history.rows[: self.num_rows]


class Model:
    """Drives a store and remembers everything that went in.

    Which pages are in use is found by going through all histories each time.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self.store = UnrollStore(layout, CPU)
        self.run_ids = dict.fromkeys(range(layout.max_envs), 1)
        self.current: dict[int, History] = {}
        self.histories: list[History] = []
        self.queue: list[Whole] = []
        self.versions = {NOTHING.number: 0}
        self.count = 0
        self.rows_dropped = 0

    def drop(self, env_ids: list[int]) -> None:
        self.store.drop(np.array(env_ids, np.int64))
        for env_id in env_ids:
            self.end(env_id)

    def end(self, env_id: int) -> None:
        """No more rows of its history; those of the open page are lost."""
        history = self.current.pop(env_id, None)
        if history is None:
            return
        history.open = False
        if not self.store.evaluation[env_id]:
            length = self.layout.unroll_length
            open_from = max((history.pages(length) - 1) * length, history.start)
            self.rows_dropped += history.start + len(history.rows) - open_from

    def break_history(self, env_id: int) -> None:
        """Its next row is of another history."""
        self.run_ids[env_id] += 1

    def read(self, unrolls: list[Whole]) -> None:
        """These have been read for the last time, in the order in which they became whole."""
        for unroll in unrolls:
            unroll.history.read += 1

    def pages_in_use(self) -> int:
        """Pages with rows of an unroll that is still to be read, or being written."""
        pages = 0
        for history in self.histories:
            count = history.pages(self.layout.unroll_length)
            last = count if history.open else count - 1
            unread = range(history.read, last)
            pages += len({page for i in unread for page in range(max(i - 1, 0), min(i + 2, count))})
        return pages

    def check_pages(self) -> None:
        self.store.wait_for_release(0.0)
        assert self.store._table.num_free == self.layout.num_pages - self.pages_in_use()
        assert self.store.rows_dropped == self.rows_dropped

    def has_room(self, env_ids: list[int]) -> bool:
        """Whether the store has room for a row of each, which it says rightly."""
        lacking = self.pages_in_use() - self.layout.num_pages
        for env_id in env_ids:
            history = self.current.get(env_id)
            lacking += (
                history is None
                or history.run_id != self.run_ids[env_id]
                or history.begins_page(self.layout.unroll_length)
            )
        # What was lacking before must not be said of this.
        everybody = np.arange(self.layout.max_envs)
        self.store.has_room(everybody, np.full(len(everybody), 10**6, np.uint64))
        run_ids = np.array([self.run_ids[env_id] for env_id in env_ids], np.uint64)
        room = self.store.has_room(np.array(env_ids), run_ids)
        assert room == (lacking <= 0)
        assert [self.store.take_shortage() for _ in range(2)] == [max(0, lacking), 0]
        return room

    def write(self, env_ids: list[int], ends: list[int]) -> None:
        """One row of each environment, if the store has room; ends: 1 terminated, 2 truncated."""
        if not self.has_room(env_ids):
            return
        run_ids = np.array([self.run_ids[env_id] for env_id in env_ids], np.uint64)
        rows = [self.add_row(env_id, end) for env_id, end in zip(env_ids, ends, strict=True)]
        arrived = Arrivals(
            {
                "hand/camera": torch.tensor([row.camera for row in rows]),
                "speed": torch.tensor([row.speed for row in rows]),
            },
            torch.tensor([row.reward for row in rows]),
            torch.tensor([row.terminated for row in rows]),
            torch.tensor([row.truncated for row in rows]),
        )
        first = np.array([row.first for row in rows])
        row_index, complete = write_rows(
            self.store, np.array(env_ids), run_ids, first, arrived
        )
        self.check_seen(read_rows(self.store, row_index, arrived), env_ids)
        behaviour = {
            "logits": torch.tensor([row.logits for row in rows]),
            "value": torch.tensor([row.value for row in rows]),
        }
        actions = torch.tensor([row.action for row in rows])
        states = torch.tensor([row.state for row in rows])
        version = torch.tensor(rows[0].number, dtype=torch.int32)
        self.store.write_actions(row_index, actions, behaviour, states, version)
        for row in rows:
            self.versions[row.number] = rows[0].number
        self.store.publish(complete)

    def add_row(self, env_id: int, end: int) -> Row:
        """The next row of an environment; the first where its history or episode begins."""
        if env_id in self.current and self.current[env_id].run_id != self.run_ids[env_id]:
            self.end(env_id)
        if env_id not in self.current:
            start = int(self.layout.first_offsets[env_id])
            self.current[env_id] = History(env_id, self.run_ids[env_id], start)
            self.histories.append(self.current[env_id])
        history = self.current[env_id]
        begins_page = history.begins_page(self.layout.unroll_length)
        last = history.rows[-1] if history.rows else NOTHING
        self.count += 1
        row = Row(self.count, last.terminated or last.truncated, self.count / 8, end == 1, end == 2)
        history.rows.append(row)
        pages = history.pages(self.layout.unroll_length)
        if begins_page and pages > 1:
            # A first page that begins later is only context.
            if self.store.evaluation[env_id] or (history.start > 0 and pages == 2):
                history.read += 1
            else:
                self.queue.append(Whole(history, len(history.rows)))
        return row

    def stack(self, history: list[Row], index: int) -> list[list[int]]:
        """The newest pictures up to a row, zeros before its episode."""
        start = max(i for i in range(index + 1) if history[i].first or i == 0)
        oldest = index - self.layout.frame_stack + 1
        return [history[i].camera if i >= start else [0, 0] for i in range(oldest, index + 1)]

    def check_seen(self, seen: Rows, env_ids: list[int]) -> None:
        histories = [self.current[env_id].rows for env_id in env_ids]
        self.check_rows(seen, [[(history, len(history) - 1) for history in histories]])

    def check_rows(
        self, rows: Rows, row_index: list[list[tuple[list[Row], int]]], observed: bool = True
    ) -> None:
        """Compares rows [T, B] with the histories' rows at these indices; none is below 0."""
        for t, batch in enumerate(row_index):
            for b, (history, index) in enumerate(batch):
                row = history[index] if index >= 0 else NOTHING
                begins = row.first or index == 0
                if observed:
                    pictures, speeds = rows.observations.values()
                    assert pictures[t, b].tolist() == self.pictures(history, index)
                    assert speeds[t, b] == row.speed
                previous = NOTHING if begins else history[index - 1]
                assert rows.previous_actions[t, b] == previous.action
                assert rows.rewards[t, b] == row.reward
                assert rows.terminated[t, b] == row.terminated
                assert rows.truncated[t, b] == row.truncated
                assert rows.first[t, b] == begins

    def pictures(self, history: list[Row], index: int) -> list[list[int]] | list[int]:
        """What the network sees of the camera at a row."""
        if self.layout.frame_stack == 1:
            return history[index].camera if index >= 0 else NOTHING.camera
        if index < 0:
            return [NOTHING.camera] * self.layout.frame_stack
        return self.stack(history, index)

    def check_unroll(self, unroll: Unroll, unrolls: list[Whole]) -> None:
        """Compares a gathered batch with what it should hold."""
        row_index = self.row_index(unrolls, self.layout.burn_in)
        assert unroll.burn_in == self.layout.burn_in
        self.check_acts(unroll, row_index, observed=True)
        begins = [history[index] if index >= 0 else NOTHING for history, index in row_index[0]]
        assert unroll.agent_state.tolist() == [row.state for row in begins]
        assert unroll.importance.shape == (len(unrolls),)

    def row_index(self, unrolls: list[Whole], burn_in: int) -> list[list[tuple[list[Row], int]]]:
        """The rows `[burn_in + T + 1, B]` of these unrolls."""
        length = self.layout.unroll_length
        return [
            [(whole.history.rows, whole.num_rows - 1 - length + t) for whole in unrolls]
            for t in range(-burn_in, length + 1)
        ]

    def check_acts(
        self, unroll: Unroll, row_index: list[list[tuple[list[Row], int]]], *, observed: bool
    ) -> None:
        """Compares all but the recurrent state with the rows at these places."""
        assert unroll.actions.shape == (len(row_index), len(row_index[0]))
        self.check_rows(unroll.rows, row_index, observed)
        for t, batch in enumerate(row_index):
            for b, (history, index) in enumerate(batch):
                row = history[index] if index >= 0 else NOTHING
                assert unroll.actions[t, b] == row.action
                assert unroll.behaviour["logits"][t, b].tolist() == row.logits
                assert unroll.behaviour["value"][t, b] == row.value
                assert unroll.policy_versions[t, b] == self.versions[row.number]
