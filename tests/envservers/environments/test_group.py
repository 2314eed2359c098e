from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envservers.environments.group import EpisodeTracker, InvalidEnvironment


def rows(n: int) -> st.SearchStrategy[list[tuple[list[float], list[bool]]]]:
    """Rewards and ends of `n` environments."""
    rewards = st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)
    ends = st.lists(st.booleans(), min_size=n, max_size=n)
    return st.lists(st.tuples(rewards, ends), min_size=1, max_size=30)


@given(st.integers(1, 4).flatmap(rows))
def test_records_are_the_sums_over_each_game(rows: list[tuple[list[float], list[bool]]]) -> None:
    num_envs = len(rows[0][0])
    tracker = EpisodeTracker(num_envs)
    games: list[list[float]] = [[] for _ in range(num_envs)]
    for rewards, ended in rows:
        records = tracker.add(np.array(rewards), np.array(ended))
        expected = []
        for index in range(num_envs):
            games[index].append(rewards[index])
            if ended[index]:
                # The reward on a game's first row belongs to no action of it.
                counted = games[index][1:]
                expected.append((index, len(counted), sum(counted)))
                games[index] = []
        assert records.tolist() == expected
    # What runs is forgotten; the next row starts a game.
    tracker.reset()
    for reward in (7.0, 2.0):
        records = tracker.add(np.full(num_envs, reward), np.full(num_envs, reward == 2.0))
    assert records.tolist() == [(index, 1, 2.0) for index in range(num_envs)]


def test_a_reason_without_end_keeps_its_beginning_and_its_end() -> None:
    text = str(InvalidEnvironment("made of " + "x" * 10**6 + "; install it"))
    assert len(text) < 2_000
    assert text.startswith("made of x")
    assert text.endswith("x; install it")
    assert str(InvalidEnvironment("no such game")) == "no such game"
