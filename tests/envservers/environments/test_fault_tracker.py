"""The faults of a group, without environments: what may start when, and what is told of it."""

from __future__ import annotations

import pytest

from envservers.supervision.recovery import FORGIVEN_AFTER_STEPS
from envservers.supervision.shared_state import NOBODY, Supervision
from tests.envservers.faulty_envs import Clock, make_tracker


def test_what_always_fails_is_started_later_and_later_then_never() -> None:
    clock, supervision = Clock(), Supervision(jitter=lambda: 1.0)
    tracker = make_tracker(2, clock, supervision=supervision)
    tracker.start(0)
    tracker.start(1)
    for wait_s in (0, 1, 2, 4):
        tracker.fail(0, ValueError("why"))
        # The other one runs.
        assert tracker.ready_s == 0
        clock.now_s += wait_s / 2
        assert tracker.startable() == ([] if wait_s else [0])
        clock.now_s += wait_s / 2
        assert tracker.startable() == [0]
        tracker.start(0)
    tracker.fail(0, ValueError("why"))
    clock.now_s += 1e9
    assert tracker.startable() == []
    faults = tracker.take_faults()
    assert [(fault.index, fault.kind, fault.restarts) for fault in faults] == [
        (0, "raised", restarts) for restarts in range(5)
    ]
    assert [fault.quarantined for fault in faults] == [False] * 4 + [True]
    assert all(fault.traceback.endswith("ValueError: why\n") for fault in faults)
    assert tracker.take_faults() == []
    (lasting,) = tracker.quarantined_faults()
    assert (lasting.index, lasting.quarantined, lasting.repeated) == (0, True, True)
    assert not tracker.is_quarantined


def test_a_group_that_is_all_down_is_ready_when_the_first_may_start() -> None:
    clock, supervision = Clock(), Supervision(jitter=lambda: 1.0)
    # A quarantine outlives the process.
    supervision.shared.faults[0] = 5
    tracker = make_tracker(1, clock, whole=True, supervision=supervision)
    assert (tracker.is_quarantined, tracker.startable()) == (True, [])
    assert [fault.index for fault in tracker.quarantined_faults()] == [None]
    supervision.shared.faults[0], supervision.shared.faults[1] = 1, 3
    tracker = make_tracker(2, clock, supervision=supervision)
    # The process before this one has ended meanwhile.
    assert tracker.startable() == [0, 1]
    for unit in (1, 0):
        tracker.start(unit)
    for unit in (1, 0):
        tracker.fail(unit, ValueError())
    assert tracker.ready_s == clock.now_s + 1
    clock.now_s += 1
    assert tracker.startable() == [0]


def test_faults_are_forgiven_after_many_steps() -> None:
    supervision = Supervision()
    tracker = make_tracker(1, Clock(), supervision=supervision)
    tracker.start(0)
    tracker.fail(0, ValueError())
    tracker.start(0)
    for _ in range(FORGIVEN_AFTER_STEPS - 1):
        tracker.end_step()
    assert supervision.shared.faults[0] == 1
    tracker.end_step()
    assert supervision.shared.faults[0] == 0


@pytest.mark.parametrize(("whole", "index"), [(False, 1), (True, NOBODY)])
def test_what_runs_is_written_down_for_the_supervisor(whole: bool, index: int) -> None:
    supervision = Supervision()
    tracker = make_tracker(2, Clock(), whole=whole, supervision=supervision)
    tracker.enter(1)
    assert [*supervision.shared.running] == [0, index]
    tracker.end_step()
    assert supervision.shared.running[0] == NOBODY
    assert not tracker.was_made
    tracker.start(1)
    assert supervision.shared.was_made


def test_not_all_of_a_thousand_tracebacks_are_sent() -> None:
    tracker = make_tracker(1000, Clock())
    for unit in range(1000):
        tracker.fail(unit, ValueError(), "(remark)\n")
    faults = tracker.take_faults()
    assert sum("ValueError" in fault.traceback for fault in faults) == 64
    assert faults[-1].traceback == "(remark)\n"
