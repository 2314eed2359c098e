"""Waiting for what comes true by itself, and whether a process still runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

# A healthy run never comes near, on however busy a machine.
DEADLINE_S = 300.0


def wait_for(condition: Callable[[], bool], interval_s: float = 0.005) -> None:
    """Polls until the condition holds; the test fails where it never does."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(interval_s)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and more of it than its exit code."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
