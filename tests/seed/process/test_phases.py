"""Seconds by phase, on a clock that a test moves."""

from __future__ import annotations

import threading

import pytest

from seed.process.phases import Phases

Step = tuple[str | None, float]


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        # What is None leaves all phases; the last one counts until now.
        ([(None, 5.0)], {}),
        ([("waiting", 1.0), ("loss", 2.0), ("waiting", 4.0), ("publish", 0.0)],
         {"waiting": 5.0, "loss": 2.0, "publish": 0.0}),
        ([("loss", 1.0), ("loss", 2.0)], {"loss": 3.0}),
        ([("loss", 1.0), (None, 5.0)], {"loss": 1.0}),
        ([("loss", 1.0), (None, 5.0), ("waiting", 1.0)], {"loss": 1.0, "waiting": 1.0}),
    ],
)  # fmt: skip
def test_every_phase_has_the_sum_of_its_times(
    monkeypatch: pytest.MonkeyPatch, steps: list[Step], seconds: dict[str, float]
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now_s)
    phases, read = Phases(), []
    for name, lasting_s in steps:
        if name is None:
            phases.leave()
        else:
            phases.enter(name)
        assert phases.name == name
        read.append((phases.seconds, dict(phases.seconds)))
        now_s += lasting_s
    assert phases.seconds == seconds
    assert phases.heartbeats == len(steps)
    # What was read stays as it was.
    assert all(then == copy for then, copy in read)


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
