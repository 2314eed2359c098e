"""Unrolls as a marked environment makes them pass; any change to one of them is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from seed.rows import Rows, Unroll
from tools.chaos.checking import Ends, find_wrong
from tools.chaos.environment import make
from tools.chaos.marks import ENV_SHIFT, HISTORY, LED_HERE, MADE_US, NUM_MARKS, REWARD, ROW

LENGTH, ENVS = 20, 3


@pytest.fixture
def unroll() -> Unroll:
    """Rows 0 to T of three boards, as an agent that moves at random saw them."""
    env, rng = make(ENVS), np.random.default_rng(1)
    observations, rewards, ended, actions = [], [], [], []
    observation, _ = env.reset(seed=3)
    reward, over = np.zeros(ENVS), np.zeros(ENVS, bool)
    for _ in range(LENGTH + 1):
        observations.append(observation)
        rewards.append(reward)
        ended.append(over)
        actions.append(rng.integers(3, size=ENVS))
        observation, reward, over, _, _ = env.step(actions[-1])
    terminated = torch.tensor(np.stack(ended))  # [T + 1, B] bool
    marks = torch.tensor(np.stack(observations))  # [T + 1, B, marks + 50] int64
    first = torch.cat([torch.ones(1, ENVS, dtype=torch.bool), terminated[:-1]])
    rows = Rows(
        marks, marks[..., LED_HERE].clamp(min=0), torch.tensor(np.stack(rewards)).float(),
        terminated, torch.zeros_like(terminated), first,
    )  # fmt: skip
    chosen = torch.tensor(np.stack(actions))
    return Unroll(rows, chosen, {}, chosen, torch.zeros(ENVS, 0), torch.ones(ENVS), 0)


def _wrong(unroll: Unroll) -> dict[str, list[int]]:
    """The unrolls that are wrong, by what is wrong."""
    marks = unroll.rows.observations[..., :NUM_MARKS]
    found = find_wrong(unroll, marks, marks[..., REWARD])
    return {what: w.nonzero()[:, 0].tolist() for what, w in found.items() if w.any()}


def test_what_an_environment_made_is_right(unroll: Unroll) -> None:
    assert _wrong(unroll) == {}
    assert unroll.rows.terminated.any()
    assert len(unroll.rows.observations[0, :, HISTORY].unique()) == ENVS


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("rewards", "rewards of other rows"),
        ("previous_actions", "previous actions of other rows"),
        ("first", "first does not mark episode starts"),
        ("terminated", "an episode's end and the next one's start differ"),
        ("actions", "actions of other rows"),
    ],
)
def test_a_value_of_another_row_is_found(unroll: Unroll, field: str, what: str) -> None:
    of_rows = field != "actions"
    value: Tensor = getattr(unroll.rows if of_rows else unroll, field)
    changed = value.clone()
    t = int((~unroll.rows.first[1:-1, 1]).nonzero()[0]) + 1
    before = t - (field == "actions")
    changed[before, 1] = ~value[t, 1] if value.dtype == torch.bool else value[before, 1] + 1
    if of_rows:
        spoiled = dataclasses.replace(
            unroll, rows=dataclasses.replace(unroll.rows, **{field: changed})
        )
    else:
        spoiled = dataclasses.replace(unroll, actions=changed)
    assert _wrong(spoiled)[what] == [1]


def test_a_row_of_another_history_is_found(unroll: Unroll) -> None:
    unroll.rows.observations[7:, 2] = unroll.rows.observations[7:, 0]
    assert _wrong(unroll)["it mixes two histories"] == [2]


def test_a_missing_row_is_found(unroll: Unroll) -> None:
    unroll.rows.observations[7:, 2, ROW] += 1
    assert _wrong(unroll) == {"its rows are not contiguous": [2]}


def test_rows_are_learned_from_once(unroll: Unroll) -> None:
    ends, marks = Ends(), unroll.rows.observations.clone()
    assert not ends.find_overlapping(marks).any()
    following = marks.clone()
    following[..., ROW] += LENGTH
    assert not ends.find_overlapping(following).any()
    following[:, 1, ROW] += LENGTH - 1
    following[:, [0, 2], ROW] += LENGTH
    assert ends.find_overlapping(following).tolist() == [False, True, False]


def test_a_reset_with_seeds_starts_new_histories_of_the_same_environments() -> None:
    env = make(2, start_us=5)
    first, _ = env.reset(seed=1)
    env.step(np.array([0, 2]))
    again, _ = env.reset(seed=1)
    assert (first[:, HISTORY] != again[:, HISTORY]).all()
    assert (first[:, HISTORY] >> ENV_SHIFT == again[:, HISTORY] >> ENV_SHIFT).all()
    assert (again[:, ROW] == 0).all()
    assert (again[:, MADE_US] >= first[:, MADE_US]).all()
    other, _ = make(1).reset(seed=1)
    assert other[0, HISTORY] >> ENV_SHIFT not in first[:, HISTORY] >> ENV_SHIFT
