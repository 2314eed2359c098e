from __future__ import annotations

import math

import pytest

from envservers.supervision import recovery
from envservers.supervision.recovery import (
    MAX_FAULTS,
    Recovery,
    Restarts,
    backoff_s,
    doubled_s,
    jitter,
)


def test_a_wait_doubles_up_to_its_longest() -> None:
    assert [backoff_s(faults) for faults in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(10_000) == 60
    waits_s = [doubled_s(times, 0.2, 5.0) for times in range(7)]
    assert waits_s == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    # For as long as a learner may be away.
    assert doubled_s(10**6, 0.2, 5.0) == 5.0


def test_jitter_shortens_by_half_at_most() -> None:
    drawn = [jitter() for _ in range(200)]
    assert 0.5 <= min(drawn) < 0.6 < 0.9 < max(drawn) <= 1


def test_faults_in_a_row_end_in_quarantine() -> None:
    counts = [0, 0]
    unit = Recovery(counts, 1, jitter=lambda: 0.5)
    due = []
    for now_s in range(100, 100 + MAX_FAULTS):
        unit.start(now_s, 0)
        assert not unit.quarantined
        unit.fail(now_s)
        due.append(unit.due_s - now_s)
    assert due == [0, 0.5, 1, 2, math.inf]
    assert unit.quarantined
    assert unit.restarts == 4
    assert counts == [0, 5]


def test_the_next_process_goes_on_counting() -> None:
    counts = bytearray([4])
    unit = Recovery(memoryview(counts), 0)
    assert unit.due_s == 0
    unit.fail(5.0)
    assert unit.quarantined
    assert Recovery(memoryview(counts), 0).due_s == math.inf
    # No more than a byte holds, whatever happens.
    for _ in range(300):
        unit.fail(5.0)
    assert counts[0] == MAX_FAULTS


@pytest.mark.parametrize(
    ("now_s", "steps", "forgiven"),
    [(599, 10_006, False), (600, 8, True), (1, 10_007, True), (1, 10_006, False)],
)
def test_what_runs_well_for_long_is_forgiven(now_s: float, steps: int, forgiven: bool) -> None:
    counts = [0]
    unit = Recovery(counts, 0)
    unit.start(0.0, 0)
    unit.fail(0.0)
    assert not unit.forgive(1e6, 1_000_000), "it is down"
    unit.start(0.0, 7)
    assert unit.forgive(now_s, steps) == forgiven
    assert counts[0] == (0 if forgiven else 1)
    assert unit.restarts == 0
    assert recovery.FORGIVEN_AFTER_S == 600


def test_a_process_that_ends_without_a_reason_is_given_up() -> None:
    def pauses_s(*ends: tuple[float, bool]) -> list[float | None]:
        restarts = Restarts(lambda: 1.0)
        return [restarts.pause_s(lived_s, explained=explained) for lived_s, explained in ends]

    crash, kill = (1.0, False), (1.0, True)
    assert pauses_s(*[crash] * 5) == [0.0, 1.0, 2.0, 4.0, None]
    # Who is killed comes back for ever, and at once where it has lived for a while.
    killed = pauses_s(*[kill] * 50, (60.0, True))
    assert (killed[:5], killed[-2:]) == ([0.0, 1.0, 2.0, 4.0, 8.0], [60.0, 0.0])
    # Kills do not count among crashes, and what has lived for long has lived it down.
    mixed = pauses_s(*[crash, kill] * 4, kill, (600.0, False))
    assert None not in mixed
    assert mixed[-1] == 0.0
