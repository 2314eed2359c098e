"""Free environments keep to what environment servers and learners expect."""

from __future__ import annotations

import numpy as np
import pytest

from envservers.environments.factory import describe, make_group
from seed.wire.spaces import SpaceSpec
from tools.bench.free_environments import EPISODE_STEPS, NUM_ACTIONS
from tools.bench.learner_configs import environment_table

NUM_ENVS = 3


def test_spaces() -> None:
    observation, action = describe(environment_table(side=84))
    assert observation == SpaceSpec("uint8", (84, 84))
    assert action == SpaceSpec("int64", (), NUM_ACTIONS)


def test_episodes_are_of_equal_length_and_end_at_different_times() -> None:
    group = make_group(environment_table(side=2), NUM_ENVS)
    group.reset(np.arange(NUM_ENVS))
    actions = np.zeros(NUM_ENVS, np.int64)
    rows = [group.step(actions) for _ in range(3 * (EPISODE_STEPS + 1))]
    first = np.stack([row.first for row in rows])  # [t, n] bool
    terminated = np.stack([row.terminated for row in rows])  # [t, n] bool
    rewards = np.stack([row.rewards for row in rows])  # [t, n] float32
    assert not any(row.truncated.any() for row in rows)
    np.testing.assert_array_equal(first[1:], terminated[:-1])
    assert set(np.unique(rewards)) == {0.0, 1.0}
    assert not rewards[first].any()
    assert len({int(starts.argmax()) for starts in first.T}) == NUM_ENVS
    for starts in first.T:
        assert np.diff(np.flatnonzero(starts)).tolist() == [EPISODE_STEPS + 1] * 2
    lengths = np.concatenate([row.episodes["length_steps"] for row in rows])
    assert (lengths[NUM_ENVS:] == EPISODE_STEPS).all()
    group.close()


def test_images_differ_from_row_to_row() -> None:
    group = make_group(environment_table(side=8), NUM_ENVS)
    before = group.reset(np.arange(NUM_ENVS)).observations.copy()
    after = group.step(np.zeros(NUM_ENVS, np.int64)).observations
    assert before.shape == after.shape == (NUM_ENVS, 8, 8)
    assert (before != after).any()
    group.close()


def test_steps_sleep_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tools.bench.free_environments.time.sleep", slept.append)
    for sleep_s in (0.0, 10.0):
        table = environment_table(side=2)
        table["kwargs"]["sleep_s"] = sleep_s
        group = make_group(table, NUM_ENVS)
        group.reset(np.arange(NUM_ENVS))
        for _ in range(2):
            group.step(np.zeros(NUM_ENVS, np.int64))
        group.close()
    assert slept == [10.0, 10.0]
