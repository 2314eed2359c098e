from __future__ import annotations

import logging
import re

import pytest

from seed.inference.fault_log import FaultLog
from seed.wire.messages import Fault

TRACEBACK = "Traceback (most recent call last):\n  in step\nRuntimeError: it fell over\n"


def fault_log() -> FaultLog:
    """With the sessions 1 to 3, of eight environments each."""
    faults = FaultLog()
    for session in (1, 2, 3):
        faults.begin(session, f"host:{session}\x1b", 8)
    return faults


def fault(
    index: int | None = 0, *, session: int = 1, group: int | None = 0, quarantined: bool = False,
    repeated: bool = False, traceback: str = TRACEBACK,
) -> Fault:  # fmt: skip
    return Fault(session, group, index, "raised", 2, quarantined, repeated, traceback)


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def untold_in(message: str) -> int:
    found = re.search(r"not shown since: (\d+)", message)
    return int(found[1]) if found else 0


def test_a_fault_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    FaultLog().note(5, "host:\x1b1", fault(3, group=2, traceback="a\x1b[2J\n b"), [0], 0.0)
    (message,) = caplog.messages
    assert message == (
        "host:\\x1b1: environment 3 of group 2 raised (restarts before: 2), "
        "it is restarted\n    a\\x1b[2J\n     b"
    )


def test_tracebacks_are_few_per_server_and_in_all(caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultLog()
    for tenth in range(205):
        for server in range(4):
            faults.note(server, f"server {server}", fault(), [0], tenth / 10)
    assert faults.total == 4 * 205
    shown = [message.split(":")[0] for message in caplog.messages if "\n" in message]
    # In 20.4 s: each at most every 10 s, and at most one line in a second.
    assert max(shown.count(f"server {server}") for server in range(4)) == 3
    assert len(shown) == 3 + 3 * 2
    assert len(caplog.messages) <= 21 + len(shown)
    told = len(caplog.messages) + sum(untold_in(message) for message in caplog.messages)
    caplog.clear()
    faults.tell_rest(25.0)
    assert not caplog.messages
    faults.tell_rest(100.0)
    (message,) = caplog.messages
    assert told + untold_in(message) == faults.total
    faults.tell_rest(200.0)
    assert len(caplog.messages) == 1


def test_a_line_is_told_soon_after_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    faults = fault_log()
    faults.note(1, "a", fault(), [0], 0.0)
    faults.note(1, "a", fault(), [0], 0.9)
    faults.note(1, "a", fault(quarantined=True), [0], 1.0)
    assert caplog.messages[1:] == [
        "a: environment 0 of group 0 raised (restarts before: 2), quarantined; "
        "RuntimeError: it fell over (faults not shown since: 1)"
    ]


def test_what_is_quarantined_counts_until_its_session_ends() -> None:
    faults = fault_log()
    faults.note(1, "a", fault(0, quarantined=True), [0], 0.0)
    faults.note(1, "a", fault(0, quarantined=True), [0], 0.0)
    faults.note(1, "a", fault(None, group=1, quarantined=True), range(1, 9), 0.0)
    faults.note(2, "b", fault(session=2, quarantined=True), [0], 0.0)
    assert (faults.total, faults.num_quarantined) == (4, 10)
    # All of them at once are no more than there are.
    faults.note(1, "a", fault(None, group=None, quarantined=True), range(9), 0.0)
    assert (faults.total, faults.num_quarantined) == (5, 10)
    faults.forget(1)
    faults.forget(7)
    assert faults.num_quarantined == 1
    # The server has a new session, and says again what stays down.
    faults.note(1, "a", fault(0, session=3, quarantined=True, repeated=True), [0], 0.0)
    assert (faults.total, faults.num_quarantined) == (5, 2)


def test_a_repeated_fault_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    fault_log().note(1, "a", fault(repeated=True, quarantined=True), [0], 0.0)
    assert not caplog.messages


def test_what_stays_down_is_summed_up_once_it_is_settled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = fault_log()
    for index in range(7):
        faults.note(1, "a", fault(index, quarantined=True), [index], index / 10)
    caplog.clear()
    faults.tell_rest(5.0)
    assert not caplog.messages
    faults.tell_rest(5.7)
    faults.tell_rest(20.0)
    (message,) = caplog.messages
    assert message.startswith(
        "host:1\\x1b: 7 of 8 environments stay down; RuntimeError: it fell over (faults not shown"
    )
    # Once more where it gets worse.
    faults.note(1, "a", fault(7, quarantined=True), [7], 30.0)
    caplog.clear()
    faults.tell_rest(40.0)
    assert caplog.messages == [
        "host:1\\x1b: 8 of 8 environments stay down; RuntimeError: it fell over"
    ]


def test_a_new_learner_is_told_what_stays_down_from_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = fault_log()
    for session in (1, 2):
        lasting = fault(0, session=session, quarantined=True, repeated=True, traceback="")
        faults.note(session, "a", lasting, [session], 0.0)
    faults.tell_rest(10.0)
    # A line a second, however many servers there are.
    assert caplog.messages == ["host:1\\x1b: 1 of 8 environments stay down"]
    faults.forget(2)
    faults.tell_rest(20.0)
    assert len(caplog.messages) == 1
