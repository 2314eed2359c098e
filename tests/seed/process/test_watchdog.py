"""The watchdog: who is silent for how long, and that its timer is wound up and stopped."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from seed.process import watchdog
from seed.process.phases import Phases
from seed.process.watchdog import Watchdog


class Bench:
    """Two waiting threads under a watchdog whose clock a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit_s: float = 10.0) -> None:
        self.now_s = 1000.0
        self.reasons: list[str] = []
        self.armed: list[float] = []
        self.cancelled = 0
        self.ends = [threading.Event(), threading.Event()]
        self.phases = [Phases(), Phases()]
        self.threads = [threading.Thread(target=end.wait, args=(300,)) for end in self.ends]
        for thread, name in zip(self.threads, ("inference", "learner"), strict=True):
            thread.name = name
            thread.start()
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(watchdog, "open_at_once", lambda: 2)
        monkeypatch.setattr(faulthandler, "dump_traceback_later", self._arm)
        monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", self._cancel)
        watched = dict(zip(self.threads, self.phases, strict=True))
        self.watchdog = Watchdog(limit_s, watched, self.reasons.append)

    def _arm(self, timeout: float, **options: Any) -> None:
        assert options == {"exit": True, "file": 2}
        self.armed.append(timeout)

    def _cancel(self) -> None:
        self.cancelled += 1

    def tick(self, seconds: float, *moving: int) -> None:
        """So much time passes, with a check after it; some of the threads have moved."""
        self.now_s += seconds
        for index in moving:
            self.phases[index].enter("forward")
        self.watchdog.check()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)
    yield bench
    for end, thread in zip(bench.ends, bench.threads, strict=True):
        end.set()
        thread.join()


@pytest.mark.parametrize(("silent", "name"), [(0, "inference"), (1, "learner")])
@pytest.mark.parametrize("phase", ["gather", None])
def test_a_silent_thread_is_given_up_after_the_limit(
    bench: Bench, silent: int, name: str, phase: str | None
) -> None:
    # One that never began is silent too.
    if phase is not None:
        bench.phases[silent].enter(phase)
    for _ in range(10 if phase else 9):
        bench.tick(1.0, 1 - silent)
    assert bench.reasons == []
    bench.tick(1.0, 1 - silent)
    assert bench.reasons == [
        f"the {name} thread has made no sign of life for 10 s (watchdog_s), in its phase {phase!r}"
    ]


def test_whoever_moves_or_gives_a_sign_or_has_ended_is_left_alone(bench: Bench) -> None:
    bench.phases[1].enter("checkpoint")
    for _ in range(100):
        bench.phases[1].heartbeat()
        bench.tick(0.9, 0)
    assert bench.phases[1].name == "checkpoint"
    bench.ends[0].set()
    bench.threads[0].join()
    for _ in range(30):
        bench.tick(1.0, 1)
    # A machine that was suspended, or a process that was stopped by its scheduler: a gap between
    # checks is nobody's silence.
    for _ in range(9):
        bench.tick(3600.0)
    assert bench.reasons == []


def test_the_timer_is_wound_up_about_once_a_second(bench: Bench) -> None:
    for _ in range(50):
        bench.tick(0.1, 0, 1)
    assert bench.armed == [10.0] * len(bench.armed)
    assert 4 <= len(bench.armed) <= 6
    bench.watchdog.close()
    assert bench.cancelled == 1


def test_zero_is_no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, limit_s=0.0)
    for _ in range(1000):
        bench.tick(1.0)
    bench.watchdog.close()
    assert (bench.reasons, bench.armed, bench.cancelled) == ([], [], 0)
    for end in bench.ends:
        end.set()


# A held terminal, or a pipe whose reader has stopped: whoever writes there waits for ever.
@pytest.mark.parametrize(
    "end", ["time.sleep(1000)", "watchdog.exit_with_stacks('it hangs', lambda: None)"]
)
def test_stacks_that_nobody_reads_do_not_keep_the_process(end: str) -> None:
    program = (
        "import time; from seed.process import watchdog; "
        f"guard = watchdog.Watchdog(1, {{}}, print); {end}"
    )
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        # A flag of the pipe's end, which the process has too.
        os.set_blocking(writer, True)
        command = [sys.executable, "-c", program]
        assert subprocess.run(command, stderr=writer, timeout=60, check=False).returncode == 1
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("error", [None, OSError("no such process")])
def test_giving_up_prints_stacks_cleans_up_as_it_can_and_leaves(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: OSError | None
) -> None:
    order: list[object] = []

    def clean_up() -> None:
        order.append("clean")
        if error is not None:
            raise error

    monkeypatch.setattr(os, "_exit", order.append)
    with contextlib.suppress(OSError):
        watchdog.exit_with_stacks("it hangs", clean_up)
    assert order == ["clean", 1]
    printed = capfd.readouterr().err
    assert printed.startswith("seed-learner: it hangs; giving up. All threads:\n")
    assert "test_giving_up_prints_stacks" in printed
