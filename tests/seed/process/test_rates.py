"""Limits on how often something may happen, against a clock that the test sets."""

from __future__ import annotations

import logging

import pytest

from seed.process.rates import LimitedLog, RateLimit


def test_a_burst_passes_and_then_so_many_a_second() -> None:
    limit = RateLimit(interval_s=0.5, burst=3)
    assert [limit.take(10.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [limit.take(11.0) for _ in range(3)] == [True, True, False]
    assert not limit.is_full(12.0)
    assert limit.is_full(12.5)
    # What was saved up in a long silence is a burst and no more.
    assert [limit.take(1000.0) for _ in range(4)] == [True] * 3 + [False]


# What is refused costs nothing: however many come, one passes every 10 s.
def test_one_passes_every_interval() -> None:
    limit = RateLimit(10.0)
    passed = [tenth / 10 for tenth in range(305) if limit.take(tenth / 10)]
    assert passed == [0.0, 10.0, 20.0, 30.0]
    assert not limit.is_full(39.9)
    assert limit.is_full(40.0)


def test_says_how_many_warnings_it_left_out(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logging.getLogger("limited"), burst=2)
    for number in range(100):
        log.warn(f"warning {number}", 0.0)
    log.warn("warning 100", 1.0)
    log.warn("warning 101", 2.0)
    assert [record.getMessage() for record in caplog.records] == [
        "warning 0", "warning 1", "warning 100 (and 98 warnings like it left out)", "warning 101",
    ]  # fmt: skip
