"""Threads whose failure is everybody's."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path
from typing import cast

import pytest

from seed.process.threads import Consequence, ThreadGroup

DEADLINE_S = 300.0


def fail_loudly() -> None:
    raise ValueError("from the depth")


def test_a_failure_stops_the_others_and_is_raised_with_its_traceback() -> None:
    threads = ThreadGroup()
    waiting = threads.start("waits", lambda: cast(None, threads.stop.wait(DEADLINE_S)))
    threads.start("fails", fail_loudly).join(DEADLINE_S)
    assert threads.stop.is_set()
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()
    for ask in (threads.check, threads.join):
        with pytest.raises(ValueError, match="from the depth") as raised:
            ask()
        assert "fail_loudly" in [frame.name for frame in traceback.extract_tb(raised.tb)]


def test_join_stops_and_awaits_every_thread_and_ticks_meanwhile() -> None:
    threads, ticked = ThreadGroup(), threading.Event()
    quick = threads.start("quick", lambda: None)
    quick.join(DEADLINE_S)
    assert quick.name == "quick"
    threads.check()
    assert not threads.stop.is_set()
    started = [
        threads.start("stops", lambda: cast(None, threads.stop.wait(DEADLINE_S))),
        threads.start("waits", lambda: cast(None, ticked.wait(DEADLINE_S))),
    ]
    threads.join(ticked.set)
    assert threads.stop.is_set()
    assert not any(thread.is_alive() for thread in started)


# Later failures follow from the first, as a rule; where that is known, the cause comes first.
@pytest.mark.parametrize(
    ("first", "second", "raised"),
    [
        (ValueError("first"), KeyError("second"), ValueError),
        (Consequence("first"), ValueError("second"), ValueError),
        (ValueError("first"), Consequence("second"), ValueError),
        (SystemExit(), ValueError("second"), SystemExit),
        (KeyboardInterrupt(), ValueError("second"), KeyboardInterrupt),
    ],
    ids=lambda value: repr(value),
)
def test_the_first_failure_that_is_no_consequence_is_raised(
    first: BaseException, second: Exception, raised: type[BaseException]
) -> None:
    threads = ThreadGroup()

    def fail(error: BaseException) -> None:
        raise error

    for error in (first, second):
        threads.start("fails", lambda error=error: fail(error)).join(DEADLINE_S)  # type: ignore[misc]
        assert threads.stop.is_set()
    with pytest.raises(raised):
        threads.join()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread name itself")
def test_the_system_knows_a_threads_name() -> None:
    threads = ThreadGroup()
    names: list[str] = []

    def read_name() -> None:
        names.append(Path("/proc/thread-self/comm").read_text())

    threads.start("a name of more than 15 bytes", read_name)
    threads.join()
    assert names == ["a name of more \n"]
