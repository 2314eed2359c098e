from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

import envservers.environments.atari
from envservers.environments.atari import AtariGroup, AtariOptions
from envservers.environments.group import InvalidEnvironment
from seed.wire.spaces import SpaceSpec

SEEDS = np.array([1, 2], np.int64)


def random_actions(group: AtariGroup, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    while True:
        yield generator.integers(0, group.action.n, group.num_envs)


def test_rows_have_the_announced_form_and_keep_their_memory() -> None:
    # The emulator takes 31 bits of a seed.
    seeds = np.array([2**62 + 5, 3])
    group = AtariGroup("pong", 2, AtariOptions())
    row = group.reset(seeds)
    assert group.observation == SpaceSpec("uint8", (84, 84))
    assert group.action == SpaceSpec("int64", (), 6)
    assert row.observations.shape == (2, 84, 84)
    assert row.observations.dtype == np.uint8
    assert row.first.all()
    assert not (row.terminated | row.truncated).any()
    before = row.observations.copy()
    for _, actions in zip(range(5), random_actions(group), strict=False):
        row_later = group.step(actions)
        assert row_later.rewards.dtype == np.float32
        assert not row_later.first.any()
    np.testing.assert_array_equal(row.observations, before)
    assert (row_later.observations != before).any()
    np.testing.assert_array_equal(group.reset(seeds).observations, before)
    group.close()
    group = AtariGroup(
        "pong", 1, AtariOptions(full_action_set=True, screen_size=42, grayscale=False)
    )
    assert (group.action.n, group.observation.shape) == (18, (42, 42, 3))
    assert group.reset(SEEDS[:1]).observations.shape == (1, 42, 42, 3)
    group.close()


def test_a_game_is_cut_at_the_frame_limit() -> None:
    group = AtariGroup("pong", 2, AtariOptions(max_frames_per_episode=80, noop_max=0))
    group.reset(SEEDS)
    for step in range(1, 21):
        row = group.step(np.zeros(2, np.int64))
        assert row.truncated.all() == (step == 20)
    assert not row.terminated.any()
    assert row.episodes["index"].tolist() == [0, 1]
    assert row.episodes["length_steps"].tolist() == [20, 20]
    row = group.step(np.zeros(2, np.int64))
    assert row.first.all()
    assert not row.rewards.any()
    assert not row.truncated.any()
    group.close()


def test_lost_lives_end_episodes_while_statistics_count_whole_games() -> None:
    group = AtariGroup("breakout", 2, AtariOptions(life_loss_ends_episode=True, fire_reset=True))
    whole_games = AtariVectorEnv(
        "breakout", 2, stack_num=1, num_threads=1, reward_clipping=False, use_fire_reset=True
    )
    row = group.reset(SEEDS)
    whole_games.reset(seed=SEEDS)
    games = [[0.0, 0] for _ in SEEDS]
    num_ends, num_games, previous = 0, 0, row
    for _, actions in zip(range(340), random_actions(group), strict=False):
        row = group.step(actions)
        ended_before = previous.terminated | previous.truncated
        np.testing.assert_array_equal(row.first, ended_before)
        sent = np.where(ended_before, 0, actions)
        observations, rewards, over, _, _ = whole_games.step(sent)
        np.testing.assert_array_equal(row.observations, observations[:, 0])
        for index in range(2):
            games[index][0] += rewards[index]
            games[index][1] += 1
        assert row.episodes["index"].tolist() == np.flatnonzero(over).tolist()
        for index, length_steps, episode_return in row.episodes.tolist():
            assert [episode_return, length_steps] == games[index]
            # The row that starts the next game is no step of it.
            games[index] = [0.0, -1]
            num_games += 1
        num_ends += int(row.terminated.sum())
        previous = row
    assert num_games >= 2
    assert num_ends >= 5 * num_games
    group.close()
    whole_games.close()


received: list[int] = []


class ScriptedEmulator:
    """Loses a life on its first step, rewards the second with 5, ends the game on the third."""

    def __init__(self, game: str, num_envs: int, **options: Any) -> None:
        self.ale = self
        received.clear()

    def get_action_set(self) -> list[int]:
        return [0, 1, 2, 3]

    def reset(self, seed: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros((1, 1, 84, 84), np.uint8), {}

    def send(self, actions: list[int], strengths: list[float]) -> None:
        received.append(*actions)
        assert strengths == [1.0]

    def recv(self) -> tuple[Any, ...]:
        step = len(received)
        terminated, lives = {1: (True, 2), 2: (False, 2), 3: (True, 0)}[step]
        reward = {1: 1, 2: 5, 3: 10}[step]
        observations = np.zeros((1, 1, 84, 84), np.uint8)
        info = {"lives": np.array([lives])}
        return observations, np.array([reward]), np.array([terminated]), np.array([False]), info


def test_the_row_after_a_lost_life_gets_no_action_and_shows_no_reward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(envservers.environments.atari, "AtariVectorEnv", ScriptedEmulator)
    group = AtariGroup("pong", 1, AtariOptions(life_loss_ends_episode=True))
    group.reset(SEEDS[:1])
    rows = [group.step(np.array([3])) for _ in range(3)]
    assert [float(row.rewards[0]) for row in rows] == [1.0, 0.0, 10.0]
    assert [bool(row.first[0]) for row in rows] == [False, True, False]
    assert [row.episodes.tolist() for row in rows] == [[], [], [(0, 3, 16.0)]]
    assert received == [3, 0, 3]


@pytest.mark.parametrize(
    ("game", "hint"),
    [("MsPacman", "ms_pacman"), ("ALE/Pong-v5", "pong"), ("PongNoFrameskip-v4", "pong"),
     ("brakout", "breakout"), ("combat", "one player"), ("no such game", "no such game")],
)  # fmt: skip
def test_unknown_games_are_refused_with_a_hint(game: str, hint: str) -> None:
    with pytest.raises(InvalidEnvironment, match=hint):
        AtariGroup(game, 1, AtariOptions())


@pytest.mark.parametrize(
    "option",
    [{"action_repeat": 0}, {"action_repeat": True}, {"noop_max": 1.0}, {"grayscale": 1},
     {"sticky_action_probability": 1.5}, {"sticky_action_probability": "0"}, {"screen_size": -1}],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidEnvironment, match=next(iter(option))):
        AtariOptions(**option)


def play(**options: Any) -> Any:
    """All screens of two games that get the same actions whatever the options."""
    group = AtariGroup("space_invaders", 2, AtariOptions(**options))
    screens = [group.reset(SEEDS).observations.copy()]
    actions = random_actions(group)
    screens += [group.step(next(actions)).observations.copy() for _ in range(60)]
    group.close()
    return np.array(screens)


def test_every_choice_of_preprocessing_shows_on_the_screen() -> None:
    standard = play()
    np.testing.assert_array_equal(play(), standard)
    for option in ({"sticky_action_probability": 0.25}, {"max_pool": False}, {"noop_max": 0}):
        assert (play(**option) != standard).any(), option
