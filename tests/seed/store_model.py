"""A model of the store that keeps every row of every history in a plain list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from seed.store.layout import Column, StoreLayout
from seed.store.rows import Arrivals, Rows, Unroll
from seed.store.unrolls import UnrollStore
from tests.seed.writing import place_and_fill, see

CPU = torch.device("cpu")
LAYOUT = StoreLayout(
    unroll_length=3,
    num_pages=24,
    max_envs=24,
    frame_stack=3,
    state_size=2,
    observation=Column((2,), torch.int64),
    action=Column((), torch.int64),
    behaviour={"logits": Column((3,), torch.float32), "value": Column((), torch.float32)},
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
    def observation(self) -> list[int]:
        return [self.number, -self.number]

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


class Model:
    """Drives a store and remembers everything that went in."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self.store = UnrollStore(layout, CPU)
        self.run_ids = dict.fromkeys(range(layout.max_envs), 1)
        self.histories: dict[int, list[Row]] = {}
        self.queue: list[list[Row]] = []
        self.versions = {NOTHING.number: 0}
        self.count = 0

    def drop(self, env_ids: list[int]) -> None:
        self.store.drop(np.array(env_ids, np.int64))
        for env_id in env_ids:
            self.histories.pop(env_id, None)

    def break_history(self, env_id: int) -> None:
        self.run_ids[env_id] += 1
        self.histories.pop(env_id, None)

    def write(self, env_ids: list[int], ends: list[int]) -> None:
        """One row of each environment, if the store has room; ends: 1 terminated, 2 truncated."""
        run_ids = np.array([self.run_ids[env_id] for env_id in env_ids], np.uint64)
        if not self.store.has_room(np.array(env_ids), run_ids):
            return
        rows = [self.add_row(env_id, end) for env_id, end in zip(env_ids, ends, strict=True)]
        arrived = Arrivals(
            torch.tensor([row.observation for row in rows]),
            torch.tensor([row.reward for row in rows]),
            torch.tensor([row.terminated for row in rows]),
            torch.tensor([row.truncated for row in rows]),
        )
        first = np.array([row.first for row in rows])
        row_index, complete = place_and_fill(
            self.store, np.array(env_ids), run_ids, first, arrived
        )
        self.check_seen(see(self.store, row_index, arrived), env_ids)
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
        history = self.histories.setdefault(env_id, [])
        first = bool(history) and (history[-1].terminated or history[-1].truncated)
        self.count += 1
        row = Row(self.count, first, self.count / 8, end == 1, end == 2)
        history.append(row)
        # A first page that begins later is no unroll.
        start = int(self.layout.first_offsets[env_id])
        length, written = self.layout.unroll_length, start + len(history) - 1
        if written % length == 0 and written > (length if start else 0):
            self.queue.append(list(history))
        return row

    def stack(self, history: list[Row], index: int) -> list[list[int]]:
        """The newest observations up to a row, zeros before its episode."""
        start = max(i for i in range(index + 1) if history[i].first or i == 0)
        oldest = index - self.layout.frame_stack + 1
        return [history[i].observation if i >= start else [0, 0] for i in range(oldest, index + 1)]

    def check_seen(self, seen: Rows, env_ids: list[int]) -> None:
        histories = [self.histories[env_id] for env_id in env_ids]
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
                    assert rows.observations[t, b].tolist() == self.observation(history, index)
                previous = NOTHING if begins else history[index - 1]
                assert rows.previous_actions[t, b] == previous.action
                assert rows.rewards[t, b] == row.reward
                assert rows.terminated[t, b] == row.terminated
                assert rows.truncated[t, b] == row.truncated
                assert rows.first[t, b] == begins

    def observation(self, history: list[Row], index: int) -> list[list[int]] | list[int]:
        """What the network sees at a row."""
        if self.layout.frame_stack == 1:
            return history[index].observation if index >= 0 else NOTHING.observation
        if index < 0:
            return [NOTHING.observation] * self.layout.frame_stack
        return self.stack(history, index)

    def check_unroll(self, unroll: Unroll, histories: list[list[Row]]) -> None:
        """Compares a gathered batch with the ends of these histories."""
        row_index = self.row_index(histories, self.layout.burn_in)
        assert unroll.burn_in == self.layout.burn_in
        self.check_acts(unroll, row_index, observed=True)
        begins = [history[index] if index >= 0 else NOTHING for history, index in row_index[0]]
        assert unroll.agent_state.tolist() == [row.state for row in begins]
        assert unroll.importance.shape == (len(histories),)

    def row_index(
        self, histories: list[list[Row]], burn_in: int
    ) -> list[list[tuple[list[Row], int]]]:
        """The rows `[burn_in + T + 1, B]` of the unrolls at the ends of these histories."""
        length = self.layout.unroll_length
        return [
            [(history, len(history) - 1 - length + t) for history in histories]
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
