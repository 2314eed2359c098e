"""Unrolls as a marked environment makes them pass; any change to one of them is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from seed.config.schema import NetworkConfig
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec
from tools.chaos.algorithm import Checks, Config, make_agent
from tools.chaos.checking import Ends, find_wrong
from tools.chaos.environment import make
from tools.chaos.marks import (
    ENV_SHIFT,
    HISTORY,
    LED_HERE,
    MADE_US,
    NUM_MARKS,
    REWARD,
    ROW,
    SERVER_SHIFT,
    WRONG,
)

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
        {"": marks}, marks[..., LED_HERE].clamp(min=0), torch.tensor(np.stack(rewards)).float(),
        terminated, torch.zeros_like(terminated), first,
    )  # fmt: skip
    chosen = torch.tensor(np.stack(actions))
    return Unroll(rows, chosen, {}, chosen, torch.zeros(ENVS, 0), torch.ones(ENVS), 0)


def _wrong(unroll: Unroll) -> dict[str, list[int]]:
    """The unrolls that are wrong, by what is wrong."""
    marks = unroll.rows.observations[""][..., :NUM_MARKS]
    found = find_wrong(unroll, marks, marks[..., REWARD])
    return {what: w.nonzero()[:, 0].tolist() for what, w in found.items() if w.any()}


def test_what_an_environment_made_is_right(unroll: Unroll) -> None:
    assert _wrong(unroll) == {}
    assert unroll.rows.terminated.any()
    assert len(set(unroll.rows.observations[""][0, :, HISTORY].tolist())) == ENVS


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
    value: Tensor = getattr(unroll if field == "actions" else unroll.rows, field)
    t = int((~unroll.rows.first[1:-1, 1]).nonzero()[0]) + 1
    before = t - (field == "actions")
    value[before, 1] = ~value[t, 1] if value.dtype == torch.bool else value[before, 1] + 1
    assert _wrong(unroll)[what] == [1]


def test_a_row_of_another_history_or_a_missing_one_is_found(unroll: Unroll) -> None:
    marks = unroll.rows.observations[""]
    before = marks.clone()
    marks[7:, 2, ROW] += 1
    assert _wrong(unroll) == {"its rows are not contiguous": [2]}
    marks.copy_(before)
    marks[7:, 2] = marks[7:, 0]
    assert _wrong(unroll)["it mixes two histories"] == [2]


def test_rows_are_learned_from_once(unroll: Unroll) -> None:
    ends, marks = Ends(), unroll.rows.observations[""].clone()
    everyone = torch.ones(ENVS, dtype=torch.bool)
    assert not ends.find_overlapping(marks, everyone).any()
    following = marks.clone()
    following[..., ROW] += LENGTH
    assert not ends.find_overlapping(following, everyone).any()
    following[:, 1, ROW] += LENGTH - 1
    following[:, [0, 2], ROW] += LENGTH
    assert not ends.find_overlapping(following, ~everyone).any()
    assert ends.find_overlapping(following, everyone).tolist() == [False, True, False]


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
    env.close()
    successor, _ = make(2).reset(seed=1)
    assert (successor[:, HISTORY] >> ENV_SHIFT == first[:, HISTORY] >> ENV_SHIFT).all()


def test_the_agent_sees_boards_and_no_marks(unroll: Unroll) -> None:
    size = unroll.rows.observations[""].shape[-1]
    network = NetworkConfig(torso="mlp", hidden_sizes=(4,))
    spaces = SpaceSpec("int64", (size,)), SpaceSpec("int64", (), 3)
    agent = make_agent(*spaces, network, Config())

    def values() -> Tensor:
        output = agent(unroll.rows, unroll.rows.rewards, unroll.agent_state)
        found: Tensor = output.values.detach()
        return found

    before = values()
    unroll.rows.observations[""][..., :NUM_MARKS] = 0
    assert torch.equal(values(), before)
    unroll.rows.observations[""][..., NUM_MARKS:] += 1
    assert not torch.allclose(values(), before)


def _check(checks: Checks, unroll: Unroll) -> dict[str, float]:
    return checks.check(unroll, unroll.rows.observations[""][..., :NUM_MARKS])


def test_counts_and_the_oldest_environment_are_in_the_metrics(unroll: Unroll) -> None:
    checks, made = Checks(), unroll.rows.observations[""][..., MADE_US]
    made[0] = torch.tensor([3_000_000, 1_000_000, 2_000_000])
    assert _check(checks, unroll) == {
        "unrolls_checked": 3, "unrolls_wrong": 0, "envs_server_0": 3, "made_s_server_0": 1.0,
    }  # fmt: skip
    unroll.rows.observations[""][..., ROW] += LENGTH
    made[0] = torch.tensor([4_000_000, 5_000_000, 6_000_000])
    figures = _check(checks, unroll)
    assert figures["made_s_server_0"] == 4.0
    assert figures["unrolls_checked"] == 6


def test_a_wrong_unroll_is_logged_with_what_is_wrong(
    unroll: Unroll, caplog: pytest.LogCaptureFixture
) -> None:
    unroll.rows.observations[""][..., HISTORY] += 5 << SERVER_SHIFT
    # A flipped bit in a row's history: neither server nor environment are other ones for that.
    unroll.rows.observations[""][0, 1, HISTORY] ^= 1 << ENV_SHIFT + 3
    figures = _check(Checks(), unroll)
    assert (figures["unrolls_wrong"], figures["envs_server_5"]) == (1, 3)
    (line,) = caplog.messages
    said = json.loads(line.partition(WRONG)[2])
    assert said["server"] == 5
    assert said["what"] == ["it mixes two histories"]
