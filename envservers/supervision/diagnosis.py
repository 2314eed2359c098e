"""How a process of an environment server ended, and why. No clocks and no processes here."""

from __future__ import annotations

import os
import signal

from envservers.supervision.shared_state import NOBODY, CrashReport
from seed.wire.terminal import printable

# Environments do not end their process by these, as far as can be told.
_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def diagnose(
    wait_status: int | None, stacks: str, running: tuple[int, int], *, was_stopped: bool
) -> CrashReport:
    """Finds out how a process ended, and which environment caused that, if any.

    Args:
        wait_status: What `waitpid` said; None where its parent had ended, too.
        stacks: What `faulthandler` has written there.
        running: The group and the index that were being stepped.
        was_stopped: Whether it had been stopped (SIGSTOP) a while before.
    """
    group, index = running
    code = None if wait_status is None else os.waitstatus_to_exitcode(wait_status)
    # What faulthandler writes first when time is over.
    if stacks.startswith("Timeout"):
        # While it was stopped the timer ran on, and no environment could.
        kind = "stopped" if was_stopped else "hung"
    else:
        kind = "was killed" if _is_from_outside(code, group) else "crashed"
    if kind in ("stopped", "was killed"):
        group = NOBODY
    return CrashReport(
        kind,
        group if group != NOBODY else None,
        index if group != NOBODY and index != NOBODY else None,
        stacks if kind in ("hung", "stopped") else f"{stacks}its process {_end(code)}",
    )


def describe(crash: CrashReport) -> str:
    """A line for the person who watches, and the text."""
    if crash.kind == "stopped":
        where = " for longer than a step may take"
    elif crash.kind == "was killed":
        where = ""
    elif crash.group is None:
        where = " between two steps"
    elif crash.index is None:
        where = f" in group {crash.group}"
    else:
        where = f" in environment {crash.index} of group {crash.group}"
    text = printable(crash.text, lines=True)
    return f"its process {crash.kind}{where} and is started again\n{text}"


def _is_from_outside(code: int | None, group: int) -> bool:
    if code is None or -code in _FROM_OUTSIDE:
        return True
    # While an environment runs, this is how the system ends what takes more memory than there is.
    return code == -signal.SIGKILL and group == NOBODY


def _end(code: int | None) -> str:
    if code is None:
        return "ended with the one that watched over it"
    return f"ended with exit code {code}" if code >= 0 else f"ended by {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
