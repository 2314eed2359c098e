from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envservers.environments.group import EpisodeTracker, InvalidEnvironment


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.tuples(
                st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n),
                st.lists(st.booleans(), min_size=n, max_size=n),
            ),
            min_size=1,
            max_size=30,
        )
    )
)
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
        assert [tuple(record) for record in records.tolist()] == [
            (index, length, np.float64(total)) for index, length, total in expected
        ]


def test_reset_forgets_the_running_games() -> None:
    tracker = EpisodeTracker(1)
    no, yes = np.array([False]), np.array([True])
    for _ in range(3):
        tracker.add(np.array([1.0]), no)
    tracker.reset()
    tracker.add(np.array([7.0]), no)
    assert tracker.add(np.array([2.0]), yes).tolist() == [(0, 1, 2.0)]


def test_a_reason_without_end_keeps_its_beginning_and_its_end() -> None:
    text = str(InvalidEnvironment("made of " + "x" * 10**6 + "; install it"))
    assert len(text) < 2_000
    assert text.startswith("made of x")
    assert text.endswith("x; install it")
    assert str(InvalidEnvironment("no such game")) == "no such game"
