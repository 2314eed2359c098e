"""Threads whose failure is everybody's."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path
from typing import cast

import pytest

from seed.process.threads import ThreadGroup

DEADLINE_S = 300.0


def fail_loudly() -> None:
    raise ValueError("from the depth")


def test_a_failure_stops_the_others_and_is_raised_with_its_traceback() -> None:
    threads = ThreadGroup()
    ended = threading.Event()

    def wait() -> None:
        threads.stop.wait(DEADLINE_S)
        ended.set()

    waiting = threads.start("waits", wait)
    failing = threads.start("fails", fail_loudly)
    failing.join(DEADLINE_S)
    assert threads.stop.is_set()
    waiting.join(DEADLINE_S)
    assert ended.is_set()
    for ask in (threads.check, threads.join):
        with pytest.raises(ValueError, match="from the depth") as raised:
            ask()
        assert "fail_loudly" in [frame.name for frame in traceback.extract_tb(raised.tb)]


def test_nothing_is_raised_where_nothing_failed() -> None:
    threads = ThreadGroup()
    thread = threads.start("quick", lambda: None)
    thread.join(DEADLINE_S)
    assert thread.name == "quick"
    threads.check()
    assert not threads.stop.is_set()
    threads.join()
    assert threads.stop.is_set()


def test_join_stops_and_awaits_every_thread() -> None:
    threads = ThreadGroup()

    def wait() -> None:
        threads.stop.wait(DEADLINE_S)

    started = [threads.start(name, wait) for name in ("a", "b")]
    assert all(thread.is_alive() for thread in started)
    threads.join()
    assert not any(thread.is_alive() for thread in started)


# Later failures follow from the first, as a rule.
def test_the_first_failure_is_the_one_that_is_raised() -> None:
    threads = ThreadGroup()

    def fail_after_the_other() -> None:
        threads.stop.wait(DEADLINE_S)
        raise KeyError("a consequence")

    threads.start("second", fail_after_the_other)
    threads.start("first", fail_loudly).join(DEADLINE_S)
    with pytest.raises(ValueError, match="from the depth"):
        threads.join()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_stops_the_others_too(kind: type[BaseException]) -> None:
    threads = ThreadGroup()

    def leave() -> None:
        raise kind

    threads.start("leaves", leave).join(DEADLINE_S)
    assert threads.stop.is_set()
    with pytest.raises(kind):
        threads.check()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread name itself")
def test_the_system_knows_a_threads_name() -> None:
    threads = ThreadGroup()
    names: list[str] = []

    def read_name() -> None:
        names.append(Path("/proc/thread-self/comm").read_text())

    threads.start("a name of more than 15 bytes", read_name).join(DEADLINE_S)
    threads.join()
    assert names == ["a name of more \n"]


def test_join_ticks_while_it_waits() -> None:
    threads = ThreadGroup()
    ticked = threading.Event()
    threads.start("waits", lambda: cast(None, ticked.wait(DEADLINE_S)))
    threads.join(ticked.set)
    assert ticked.is_set()
