"""What the log says of servers that come and go, however often they do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from seed.inference.session_log import SessionLog


@pytest.fixture
def sessions(caplog: pytest.LogCaptureFixture) -> Iterator[SessionLog]:
    with caplog.at_level(logging.INFO):
        yield SessionLog()


def test_a_few_are_told_one_by_one(sessions: SessionLog, caplog: pytest.LogCaptureFixture) -> None:
    sessions.connected("a", 2, "", 0.0)
    sessions.connected("b", 3, "worker", 0.0)
    sessions.left("a", "the end", 0.0)
    sessions.tell_rest(100.0)
    assert caplog.messages == [
        "a connected with 2 environments",
        "b connected with 3 environments and the key 'worker'",
        "a left: the end",
    ]


# One host can connect and leave hundreds of times a second.
def test_a_flood_is_a_line_a_second_and_its_sum(
    sessions: SessionLog, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1400):
        now_s = number / 100
        sessions.connected("a", 1, "", now_s)
        sessions.left("a", f"number {number}", now_s)
        if number % 100 == 99:
            sessions.tell_rest(now_s)
    sessions.tell_rest(30.0)
    told = caplog.messages
    sums = [text for text in told if text.startswith("and ")]
    assert len(told) - len(sums) <= 2 * (20 + 14)
    # At most one in ten seconds, and nobody is counted twice or forgotten.
    assert len(sums) == 3
    for what in ("connected", "left"):
        more = [int(text.partition(f" more {middle}{what}")[0].split()[-1])
                for text in sums for middle in ["environment servers " * (what == "connected")]]
        assert sum(more) + sum(f"a {what}" in text for text in told if text not in sums) == 1400
    assert sums[-1].endswith("the last of them: a left: number 1399")


def test_what_they_say_is_escaped_and_short(
    sessions: SessionLog, caplog: pytest.LogCaptureFixture
) -> None:
    sessions.connected("\x1b[2J", 1, "\u202e\udcff", 0.0)
    sessions.left("\x9b", "a\nb" + "c" * 5000, 0.0)
    assert caplog.messages[0] == (
        r"\x1b[2J connected with 1 environment and the key '\u202e\udcff'"
    )
    assert caplog.messages[1].startswith(r"\x9b left: a\nbccc")
    assert len(caplog.messages[1]) < 300
