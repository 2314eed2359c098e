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
    crew = ThreadGroup()
    ended = threading.Event()

    def wait() -> None:
        crew.stop.wait(DEADLINE_S)
        ended.set()

    waiting = crew.start("waits", wait)
    failing = crew.start("fails", fail_loudly)
    failing.join(DEADLINE_S)
    assert crew.stop.is_set()
    waiting.join(DEADLINE_S)
    assert ended.is_set()
    for ask in (crew.check, crew.join):
        with pytest.raises(ValueError, match="from the depth") as raised:
            ask()
        assert "fail_loudly" in [frame.name for frame in traceback.extract_tb(raised.tb)]


def test_nothing_is_raised_where_nothing_failed() -> None:
    crew = ThreadGroup()
    thread = crew.start("quick", lambda: None)
    thread.join(DEADLINE_S)
    assert thread.name == "quick"
    crew.check()
    assert not crew.stop.is_set()
    crew.join()
    assert crew.stop.is_set()


def test_join_stops_and_awaits_every_thread() -> None:
    crew = ThreadGroup()

    def wait() -> None:
        crew.stop.wait(DEADLINE_S)

    threads = [crew.start(name, wait) for name in ("a", "b")]
    assert all(thread.is_alive() for thread in threads)
    crew.join()
    assert not any(thread.is_alive() for thread in threads)


# Later failures follow from the first, as a rule.
def test_the_first_failure_is_the_one_that_is_raised() -> None:
    crew = ThreadGroup()

    def fail_after_the_other() -> None:
        crew.stop.wait(DEADLINE_S)
        raise KeyError("a consequence")

    crew.start("second", fail_after_the_other)
    crew.start("first", fail_loudly).join(DEADLINE_S)
    with pytest.raises(ValueError, match="from the depth"):
        crew.join()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_stops_the_others_too(kind: type[BaseException]) -> None:
    crew = ThreadGroup()

    def leave() -> None:
        raise kind

    crew.start("leaves", leave).join(DEADLINE_S)
    assert crew.stop.is_set()
    with pytest.raises(kind):
        crew.check()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread name itself")
def test_the_system_knows_a_threads_name() -> None:
    crew = ThreadGroup()
    names: list[str] = []

    def read_name() -> None:
        names.append(Path("/proc/thread-self/comm").read_text())

    crew.start("a name of more than 15 bytes", read_name).join(DEADLINE_S)
    crew.join()
    assert names == ["a name of more \n"]


def test_join_ticks_while_it_waits() -> None:
    crew = ThreadGroup()
    ticked = threading.Event()
    crew.start("waits", lambda: cast(None, ticked.wait(DEADLINE_S)))
    crew.join(ticked.set)
    assert ticked.is_set()
