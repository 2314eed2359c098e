"""Environments that count, before a store with replay, driven as inference drives it.

Every observation is [env_id, history, episode, row of the episode], and the recurrent state counts
the rows of its episode: so each row of a sample says where it is from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from seed.config.schema import ReplayConfig
from seed.contract import ActOutput
from seed.inference.batcher import GroupRows, InferenceBatch
from seed.inference.forward import ForwardPass
from seed.learner.replay import Replay
from seed.learner.sources import Batch
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.wire import messages
from seed.wire.arrays import Int64Array
from tests.seed.acting import Shown, acting

CPU = torch.device("cpu")
LENGTH, BURN_IN, ENVS = 6, 4, 3
LAYOUT = StoreLayout(
    unroll_length=LENGTH,
    num_pages=40,
    max_envs=ENVS,
    frame_stack=1,
    state_size=1,
    observations={"": Column((4,), torch.int64)},
    action=Column((), torch.int64),
    behaviour={"count": Column((), torch.float32)},
    burn_in=BURN_IN,
    replay_unrolls=12,
)


def count_rows(shown: Shown) -> ActOutput:
    """The state counts an episode's rows; the action is that count, and so is the behaviour."""
    count = shown.agent_state.sum(dim=1)  # [B] float32
    return ActOutput(count.long(), {"count": count}, shown.agent_state + 1)


class Setup:
    """Environments, a forward pass, a store and a replay over it."""

    def __init__(
        self,
        config: ReplayConfig,
        layout: StoreLayout = LAYOUT,
        batch_size: int = 8,
        initial_priorities: Callable[[Unroll], Tensor] | None = None,
    ) -> None:
        self.store = UnrollStore(layout, CPU)
        self.forward = ForwardPass(acting(count_rows), None, nn.Identity(), self.store, 8)
        self.replay = Replay(
            self.store, batch_size, config, np.random.default_rng(4), initial_priorities
        )
        self.rng = np.random.default_rng(3)
        # [max_envs, 4] int64: env_id, history (from 1), episode, row
        self.at = np.zeros((layout.max_envs, 4), np.int64)
        self.at[:, 0] = np.arange(layout.max_envs)
        self.at[:, 1] = 1
        self.first = np.ones(layout.max_envs, np.bool_)
        self.refused = 0

    def step(self, **chances: float) -> bool:
        """One row of random environments; False where the store has no room."""
        return self.step_envs(np.flatnonzero(self.rng.random(len(self.at)) < 0.8), **chances)

    def step_envs(self, envs: Int64Array, *, breaks: float = 0.0, ends: float = 0.0) -> bool:
        """One row of these environments; False where the store has no room.

        Each of them may end its episode there, or break its history after it.
        """
        if not len(envs):
            return True
        run_ids = self.at[envs, 1].astype(np.uint64)
        if not self.store.has_room(envs, run_ids):
            self.refused += 1
            return False
        over = self.rng.random(len(envs)) < ends
        flags = messages.FIRST * self.first[envs] + messages.TERMINATED * over
        arrays = messages.StepArrays(
            run_ids, self.at[envs], np.zeros(len(envs), np.float32), flags.astype(np.uint8),
            np.empty(0, messages.EPISODE_DTYPE),
        )  # fmt: skip
        _, complete = self.forward.run(InferenceBatch.of([GroupRows(envs, arrays)]))
        self.store.publish(complete)
        broken = envs[self.rng.random(len(envs)) < breaks]
        self.at[envs, 3] += 1
        self.first[envs] = False
        for which, column in ((envs[over], 2), (broken, 1)):
            self.at[which, column] += 1
            self.at[which, 3] = 0
            self.first[which] = True
        return True

    def fill(self, unrolls: int, **chances: float) -> None:
        """Rows until exactly so many unrolls wait in the store's queue."""
        while self.store.num_ready < unrolls:
            assert self.step_envs(self.rng.integers(len(self.at), size=1), **chances)

    def batches(self, count: int, **chances: float) -> list[Batch]:
        """Samples while the environments go on and pages are evicted."""
        batches: list[Batch] = []
        for _ in range(200 * count):
            self.step(**chances)
            if self.replay.wait(0.0):
                batches.append(self.replay.next_batch())
            if len(batches) == count:
                return batches
        raise AssertionError(f"{len(batches)} batches")

    def close(self) -> None:
        """Ends all histories and hands everything back; then every page must be free."""
        envs = np.arange(len(self.at))
        self.store.drop(envs)
        self.store.release(self.store.take_some(10**6, 0.0))
        self.replay._evict(len(self.replay))
        assert len(self.replay) == 0
        self.store.has_room(envs, np.zeros(len(envs), np.uint64))
        assert self.store._table.num_free == self.store.layout.num_pages


def check(unroll: Unroll) -> None:
    """Every row is of the same history and in order, and the state is that of the first row."""
    observations = unroll.rows.observations[""]
    if observations.dim() == 3:
        observations = observations[:, :, None]  # [K + T + 1, B, stack, 4] int64
    for b in range(observations.shape[1]):
        rows = observations[:, b, -1].tolist()
        # Before a history's start there are rows of zeros that count as first ones.
        begin = next(t for t, row in enumerate(rows) if row[1])
        assert begin in (0, unroll.burn_in)
        assert not any(map(any, rows[:begin]))
        assert unroll.rows.first[: begin + (begin > 0), b].all()
        assert begin == 0 or rows[begin][3] == 0
        for t in range(begin, len(rows)):
            check_row(rows, t, begin, bool(unroll.rows.first[t, b]))
            check_stack(observations[t, b].tolist())
        assert unroll.agent_state[b].tolist() == [rows[0][3]]
        actions = [row[3] for row in rows]
        assert unroll.actions[begin:, b].tolist() == actions[begin:]
        assert unroll.behaviour["count"][begin:, b].tolist() == actions[begin:]
        before = [0, *actions[:-1]]
        expected = [0 if row[3] == 0 else action for row, action in zip(rows, before, strict=True)]
        assert unroll.rows.previous_actions[1:, b].tolist() == expected[1:]


def check_row(rows: list[list[int]], t: int, begin: int, first: bool) -> None:
    """Row t follows row t - 1 in its episode, or is the first of the next."""
    assert first == (rows[t][3] == 0)
    if t > begin:
        env_id, history, episode, row = rows[t - 1]
        following = [env_id, history, episode + 1, 0] if first else [*rows[t - 1][:3], row + 1]
        assert rows[t] == following


def check_stack(stack: list[list[int]]) -> None:
    """The rows before the newest, zeros before its episode."""
    *place, newest = stack[-1]
    for back, row in enumerate(reversed(stack)):
        assert row == ([*place, newest - back] if newest >= back else [0] * 4)


def check_all(batches: list[Batch]) -> None:
    for batch in batches:
        check(batch.unroll)
