"""The others' pace around a kill: whose unrolls count, and when."""

from __future__ import annotations

import pytest

from tools.chaos.faults import Fault
from tools.chaos.pace import Progress, TooSlow, Trial, compare, find_pace

# Server 0 is killed at 20 s and started anew at 23 s.
TRIAL = Trial(Fault("kill-envserver", (0,), 2.0, 20.0, 23.0, 24.0), control_s=16.0, cores_busy=0.5)


def _progress(stalls: list[tuple[float, float]], interval_s: float = 0.25) -> Progress:
    """Counts from 10 s on: of the others 10 unrolls a second each, but none in these stalls."""

    def unrolls(at_s: float) -> int:
        stalled_s = sum(min(max(at_s - start_s, 0.0), end_s - start_s) for start_s, end_s in stalls)
        return round(10 * (at_s - 10.0 - stalled_s))

    times_s = [10.0 + tick * interval_s for tick in range(int(20 / interval_s) + 1)]
    return [(at_s, [99 * tick, unrolls(at_s), unrolls(at_s)]) for tick, at_s in enumerate(times_s)]


def test_only_the_others_count() -> None:
    progress = _progress([])
    assert find_pace(progress, 14.0, 16.0, but=(0,)) == pytest.approx(20.0)
    assert find_pace(progress, 14.0, 16.0, but=(0, 2)) == pytest.approx(10.0)


def test_between_two_counts_unrolls_come_evenly() -> None:
    progress = [(0.0, [0]), (1.0, [10]), (3.0, [10]), (4.0, [50])]
    assert find_pace(progress, 0.5, 2.0, but=()) == pytest.approx(5 / 1.5)
    assert find_pace(progress, 3.5, 4.0, but=()) == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("stall", "expected"),
    [
        ((20.0, 20.5), (0.75, 1.0, 1.0)),
        ((23.5, 24.0), (1.0, 0.75, 1.0)),
        ((16.5, 17.0), (1.0, 1.0, 0.75)),
        # Before the kill only: both windows that are compared with it seem better.
        ((18.5, 19.0), (4 / 3, 4 / 3, 1.0)),
    ],
)
def test_a_stall_shows_where_it_was(
    stall: tuple[float, float], expected: tuple[float, float, float]
) -> None:
    assert compare(TRIAL, _progress([stall]), 2.0) == pytest.approx(expected)


def test_a_stall_at_once_is_not_lost_between_two_counts() -> None:
    # No count was taken at the kill, and the first one after it is of the stall's end.
    ratios = compare(TRIAL, _progress([(20.0, 20.4)], interval_s=0.4), 2.0)
    assert ratios.kill == pytest.approx(0.8)


def test_no_pace_is_no_comparison() -> None:
    with pytest.raises(TooSlow, match=r"no unroll in 2 s before 20\.0 s"):
        compare(TRIAL, _progress([(18.0, 20.0)]), 2.0)
