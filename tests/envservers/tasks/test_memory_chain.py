from __future__ import annotations

import numpy as np
import pytest

from envservers.tasks import memory_chain


def test_the_cue_is_shown_once_and_asked_for_at_the_end() -> None:
    env = memory_chain.make(32, length=4)
    observations, _ = env.reset(seed=list(range(32)))
    assert observations.dtype == np.float32
    cue = observations[:, 0]
    assert set(cue.tolist()) == {-1.0, 1.0}
    for time in range(1, 5):
        observations, rewards, terminated, truncated, _ = env.step(np.ones(32, np.int64))
        np.testing.assert_array_equal(observations[:, 0], 0)
        np.testing.assert_array_equal(observations[:, 1], np.float32(time / 4))
        np.testing.assert_array_equal(observations[:, 2], float(time == 4))
        assert not rewards.any()
        assert not terminated.any()
        assert not truncated.any()
    actions = np.arange(32) % 2
    observations, rewards, terminated, truncated, _ = env.step(actions)
    assert terminated.all()
    assert not truncated.any()
    np.testing.assert_array_equal(rewards, np.where((actions == 1) == (cue == 1), 1, -1))
    assert not observations[:, [0, 2]].any()
    assert env.observation_space.contains(observations)


def test_the_step_after_the_end_shows_a_new_cue() -> None:
    env = memory_chain.make(64, length=1)
    first, _ = env.reset(seed=list(range(64)))
    for _ in range(2):
        env.step(np.zeros(64, np.int64))
    observations, rewards, terminated, _, _ = env.step(np.zeros(64, np.int64))
    assert not rewards.any()
    assert not terminated.any()
    assert (np.abs(observations[:, 0]) == 1).all()
    assert not observations[:, 1:].any()
    assert (observations[:, 0] != first[:, 0]).any()


def test_a_policy_without_memory_gets_nothing_in_the_mean() -> None:
    env = memory_chain.make(4000, length=1)
    env.reset(seed=7)
    total, num_episodes = 0.0, 0
    for _ in range(15):
        # On the row that asks, the observation is the same for both cues.
        _, rewards, terminated, _, _ = env.step(np.ones(4000, np.int64))
        total += rewards.sum()
        num_episodes += terminated.sum()
    assert num_episodes == 20_000
    assert abs(total / num_episodes) < 5 / np.sqrt(num_episodes)


def test_seeds_decide_the_cues_of_each_chain_alone() -> None:
    together, _ = memory_chain.make(8).reset(seed=list(range(8)))
    for index in range(8):
        alone, _ = memory_chain.make(1).reset(seed=index)
        np.testing.assert_array_equal(alone[0], together[index])


def test_a_chain_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length >= 1"):
        memory_chain.make(1, 0)
