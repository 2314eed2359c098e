from __future__ import annotations

import numpy as np
import pytest

from envservers.tasks import catch


def test_an_episode_is_nine_steps_and_the_reward_tells_whether_it_was_caught() -> None:
    env = catch.make(64)
    boards, _ = env.reset(seed=list(range(64)))
    assert boards.shape == (64, 10, 5)
    assert boards.dtype == np.float32
    assert (boards.sum(axis=(1, 2)) == 2).all()
    ball = boards[:, 0].argmax(axis=1)
    paddle = np.full(64, 2)
    assert (boards[:, 9].argmax(axis=1) == paddle).all()
    generator = np.random.default_rng(0)
    for step in range(1, 10):
        actions = generator.integers(0, 3, 64)
        paddle = np.clip(paddle + actions - 1, 0, 4)
        boards, rewards, terminated, truncated, _ = env.step(actions)
        assert (boards[np.arange(64), step, ball] == 1).all()
        assert (boards[np.arange(64), 9, paddle] == 1).all()
        assert terminated.all() == terminated.any() == (step == 9)
        assert not truncated.any()
        if step < 9:
            assert not rewards.any()
    np.testing.assert_array_equal(rewards, np.where(ball == paddle, 1, -1))
    assert set(rewards.tolist()) == {-1.0, 1.0}


def test_the_step_after_the_end_starts_anew_and_ignores_the_action() -> None:
    env = catch.make(1, rows=2)
    env.reset()
    env.step(np.array([1]))
    board, rewards, terminated, _, _ = env.step(np.array([0]))
    assert board[0, 1, 2] == 1
    assert board[0, 0].sum() == 1
    assert not rewards.any()
    assert not terminated.any()


def test_balls_fall_everywhere_and_seeds_decide_where() -> None:
    env = catch.make(200)
    first, _ = env.reset(seed=list(range(200)))
    columns = first[:, 0].argmax(axis=1)
    assert set(columns.tolist()) == set(range(5))
    again, _ = env.reset(seed=list(range(200)))
    np.testing.assert_array_equal(first, again)
    # An environment's episodes do not depend on its neighbours.
    alone, _ = catch.make(1).reset(seed=17)
    np.testing.assert_array_equal(alone[0], first[17])


@pytest.mark.parametrize("size", [(1, 5), (10, 0)])
def test_boards_too_small_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected rows"):
        catch.make(1, *size)
