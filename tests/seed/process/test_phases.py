"""Seconds by phase, on a clock that a test moves."""

from __future__ import annotations

import threading

import pytest

from seed.process.phases import Phases


class Clock:
    """Stands in for the system's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        patch.setattr("time.perf_counter", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def spend(clock: Clock, phases: Phases, *spans: tuple[str, float]) -> None:
    for name, seconds in spans:
        phases.enter(name)
        clock.now_s += seconds


def test_no_phase_no_seconds(clock: Clock) -> None:
    phases = Phases()
    clock.now_s += 5.0
    assert phases.seconds == {}


def test_every_phase_has_the_sum_of_its_times(clock: Clock) -> None:
    phases = Phases()
    spend(clock, phases, ("waiting", 1.0), ("loss", 2.0), ("waiting", 4.0), ("publish", 0.0))
    assert phases.seconds == {"waiting": 5.0, "loss": 2.0, "publish": 0.0}


def test_entering_the_present_phase_again_changes_nothing(clock: Clock) -> None:
    phases = Phases()
    spend(clock, phases, ("loss", 1.0), ("loss", 2.0))
    assert phases.seconds == {"loss": 3.0}


def test_the_present_phase_counts_until_now(clock: Clock) -> None:
    phases = Phases()
    spend(clock, phases, ("loss", 1.0))
    assert phases.seconds == {"loss": 1.0}
    clock.now_s += 2.0
    assert phases.seconds == {"loss": 3.0}
    spend(clock, phases, ("waiting", 1.0))
    assert phases.seconds == {"loss": 3.0, "waiting": 1.0}


def test_after_the_last_phase_nothing_counts(clock: Clock) -> None:
    phases = Phases()
    spend(clock, phases, ("loss", 1.0))
    phases.leave()
    clock.now_s += 5.0
    assert phases.seconds == {"loss": 1.0}
    spend(clock, phases, ("waiting", 1.0))
    assert phases.seconds == {"loss": 1.0, "waiting": 1.0}


def test_what_was_read_stays_as_it_was(clock: Clock) -> None:
    phases = Phases()
    spend(clock, phases, ("loss", 1.0))
    seconds = phases.seconds
    spend(clock, phases, ("loss", 1.0), ("waiting", 1.0))
    assert seconds == {"loss": 1.0}


def test_another_thread_never_reads_a_sum_that_falls() -> None:
    phases, stop = Phases(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            for name in ("waiting", "loss"):
                phases.enter(name)

    thread = threading.Thread(target=work)
    thread.start()
    sums = []
    for _ in range(500):
        sums.append(sum(phases.seconds.values()))
    stop.set()
    thread.join()
    assert sums == sorted(sums)
