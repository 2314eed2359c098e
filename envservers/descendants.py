"""Ends whatever a process has started, and what that has started, down to the last.

An environment may leave a simulator behind, or a helper that has moved to a session of its own.
Linux gives a process that asks for it all orphans below it as children, so that none gets away.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PATIENCE_S = 2.0
_POLL_INTERVAL_S = 0.01


def adopt_orphans() -> None:
    """Makes this process the parent of every orphan below it, on systems that can (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Has the system kill this process when its parent ends, on systems that can (Linux).

    Args:
        parent: Its process id; where that has ended already, this process ends here.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def end_descendants(group: int) -> None:
    """Kills a process group and, where orphans are adopted, all descendants of this process.

    Every child of this process is reaped. What cannot be killed within a moment, as it waits for a
    device, is left to the system.

    Args:
        group: Of a child.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    # What dies leaves its own children here.
    while _reap() and time.monotonic() < deadline_s:
        for child in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_INTERVAL_S)


def _reap() -> bool:
    """Takes leave of the children that have ended; whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """Process ids of this process's children, where the system lists them (Linux)."""
    this, children = os.getpid(), []
    for stat in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        # Processes come and go meanwhile.
        with contextlib.suppress(OSError):
            # The name, in parentheses, may have any characters; state and parent follow it.
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == this:
                children.append(int(stat.parent.name))
    return children


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value)
