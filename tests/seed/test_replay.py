"""Replay over the store's pages, driven as inference drives it, by environments that count.

Every observation is [env_id, history, episode, row of the episode], and the recurrent state counts
the rows of its episode: so each row of a sample says where it is from.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed import wire
from seed.config import ReplayConfig
from seed.contract import Acted, Algorithm, Fleet
from seed.forward import ForwardPass, GroupStep
from seed.layout import Column, StoreLayout
from seed.replay import Replay
from seed.rows import Rows, Unroll
from seed.sources import Batch
from seed.unrolls import UnrollStore

CPU = torch.device("cpu")
LENGTH, BURN_IN, ENVS = 6, 4, 3
LAYOUT = StoreLayout(
    unroll_length=LENGTH,
    num_pages=40,
    max_envs=ENVS,
    frame_stack=1,
    state_size=1,
    observation=Column((4,), torch.int64),
    action=Column((), torch.int64),
    behaviour={},
    burn_in=BURN_IN,
    replay_unrolls=12,
)


class Counting:
    """The state counts an episode's rows; the action is that count."""

    def act(
        self,
        agent: nn.Module,
        rows: Rows,
        agent_state: Tensor,
        config: None,
        *,
        fleet: Fleet,
        greedy: bool,
    ) -> Acted:
        return Acted(agent_state[:, 0].long(), {}, agent_state + 1)


class Setup:
    """Environments, a forward pass, a store and a replay over it."""

    def __init__(
        self, config: ReplayConfig, layout: StoreLayout = LAYOUT, batch_size: int = 8
    ) -> None:
        self.store = UnrollStore(layout, CPU)
        self.forward = ForwardPass(cast(Algorithm, Counting()), None, nn.Identity(), self.store, 8)
        self.replay = Replay(self.store, batch_size, config)
        self.rng = np.random.default_rng(3)
        # [ENVS, 4] int64: env_id, history, episode, row
        self.at = np.zeros((ENVS, 4), np.int64)
        self.at[:, 0] = np.arange(ENVS)
        self.first = np.ones(ENVS, np.bool_)
        self.waited = 0

    def step(self, *, breaks: float = 0.0, ends: float = 0.0) -> bool:
        """One row of a random choice of environments; False where the store has no room."""
        envs = np.flatnonzero(self.rng.random(ENVS) < 0.8)
        if not len(envs):
            return True
        run_ids = self.at[envs, 1].astype(np.uint64) + 1
        if not self.store.has_room(envs, run_ids):
            self.waited += 1
            return False
        over = self.rng.random(len(envs)) < ends
        flags = wire.FIRST * self.first[envs] + wire.TERMINATED * over
        arrays = wire.StepArrays(
            run_ids, self.at[envs], np.zeros(len(envs), np.float32), flags.astype(np.uint8),
            np.empty(0, wire.EPISODE_DTYPE),
        )  # fmt: skip
        _, complete = self.forward.run([GroupStep(envs, arrays)])
        self.store.publish(complete)
        broken = envs[self.rng.random(len(envs)) < breaks]
        self.at[envs, 3] += 1
        self.first[envs] = False
        for which, column in ((envs[over], 2), (broken, 1)):
            self.at[which, column] += 1
            self.at[which, 3] = 0
            self.first[which] = True
        return True

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


def check(unroll: Unroll) -> None:
    """Every row is of the same history and in order, and the state is that of the first row."""
    observations = unroll.rows.observations  # [K + T + 1, B, 4] int64
    assert len(observations) == BURN_IN + LENGTH + 1
    for b in range(observations.shape[1]):
        rows = observations[:, b].tolist()
        # Before a history's start there are rows of zeros that count as first ones.
        begin = BURN_IN if unroll.rows.first[:BURN_IN, b].all() else 0
        for t in range(begin + 1, len(rows)):
            env_id, history, episode, row = rows[t - 1]
            same = [env_id, history, episode, row + 1]
            assert rows[t] in (same, [env_id, history, episode + 1, 0])
            assert bool(unroll.rows.first[t, b]) == (rows[t] != same)
        if begin:
            assert rows[begin][3] == 0
            assert not any(map(any, rows[:begin]))
        assert unroll.agent_state[b].tolist() == [rows[0][3]]
        assert unroll.actions[begin:, b].tolist() == [row[3] for row in rows[begin:]]


def check_all(batches: list[Batch]) -> None:
    for batch in batches:
        check(batch.unroll)


CHANCES = {"breaks": 0.02, "ends": 0.07}
CONFIG = ReplayConfig(burn_in=BURN_IN, min_rows=3 * LENGTH, ratio=4.0)


def test_every_sample_is_one_history_and_starts_from_its_own_state() -> None:
    setup = Setup(CONFIG)
    batches = setup.batches(300, **CHANCES)
    check_all(batches)
    # All that could go wrong has been there: evictions, restarts, ends of episodes in the burn-in.
    numbers = torch.cat([cast(Tensor, batch.numbers) for batch in batches])
    assert numbers.max() > 10 * LAYOUT.replay_unrolls
    first = torch.cat([batch.unroll.rows.first for batch in batches], dim=1)
    assert first[1:BURN_IN].any(dim=0).logical_and(~first[:BURN_IN].all(dim=0)).any()
    assert setup.at[:, 1].min() > 3


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_state_of_the_next_row_is_noticed(shift: int) -> None:
    setup = Setup(CONFIG)
    cast(Any, setup.store)._state_row += shift
    batches = setup.batches(20, **CHANCES)
    with pytest.raises(AssertionError):
        check_all(batches)
