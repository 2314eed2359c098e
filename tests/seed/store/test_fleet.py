"""Which environments only evaluate, and where the others stand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed.store.fleet import evaluation_environments, fleet_positions

SHARES = st.fractions(min_value=0, max_value=1, max_denominator=2000)


@given(share=SHARES, max_envs=st.integers(0, 3000))
def test_of_any_first_environments_the_share_evaluates(share: Fraction, max_envs: int) -> None:
    evaluation = evaluation_environments(max_envs, float(share))
    assert evaluation.shape == (max_envs,)
    counts = np.cumsum(evaluation).tolist()
    assert counts == [n * share.numerator // share.denominator for n in range(1, max_envs + 1)]


@pytest.mark.parametrize(
    ("max_envs", "share", "expected"),
    [(6, 1 / 3, [2, 5]), (5, 0.0, []), (3, 1.0, [0, 1, 2]), (20, 0.1, [9, 19]), (3, 0.3, [])],
)
def test_evaluation_environments_come_last(
    max_envs: int, share: float, expected: list[int]
) -> None:
    assert np.flatnonzero(evaluation_environments(max_envs, share)).tolist() == expected


# As in R2D2's SEED configuration.
def test_30_of_640() -> None:
    assert evaluation_environments(640, 30 / 640).sum() == 30


@given(data=st.data(), evaluation=st.lists(st.booleans(), min_size=1, max_size=40))
def test_standings_are_ranks_among_connected_training_environments(
    data: st.DataObject, evaluation: list[bool]
) -> None:
    envs = st.integers(0, len(evaluation) - 1)
    connected = data.draw(st.lists(envs, unique=True, max_size=40))
    positions = fleet_positions(np.array(connected, np.int64), np.array(evaluation))
    assert positions.dtype == np.float32
    expected = [0.0] * len(evaluation)
    training = [env for env in sorted(connected) if not evaluation[env]]
    for rank, env in enumerate(training):
        expected[env] = rank / max(len(training) - 1, 1)
    assert positions.tolist() == pytest.approx(expected)
    if len(training) > 1:
        assert (positions[training[0]], positions[training[-1]]) == (0, 1)
