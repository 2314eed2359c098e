"""How a process of an environment server came to its end. No clocks and no processes here."""

from __future__ import annotations

import os
import signal

from envservers.supervision.shared_state import NOBODY, CrashReport
from seed.wire.terminal import printable

# Nothing that an environment does ends in one of these, as far as anybody can tell.
_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def diagnose(
    wait_status: int | None, stacks: str, running: tuple[int, int], *, was_stopped: bool
) -> CrashReport:
    """Finds the kind of an end, and the environment that has caused it, if any.

    Args:
        wait_status: What the system says of the end; None where nobody was left to hear it.
        stacks: What the process has written of its stacks, at its end.
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
    """The same for a person, with its text."""
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
