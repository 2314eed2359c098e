from __future__ import annotations

import dataclasses
import signal

import pytest

from envservers.supervision.diagnosis import describe, diagnose
from envservers.supervision.shared_state import NOBODY, CrashReport

NOWHERE = (NOBODY, NOBODY)
EXITED_3 = 3 << 8


def end(
    wait_status: int | None, running: tuple[int, int], stacks: str = "", was_stopped: bool = False
) -> CrashReport:
    return diagnose(wait_status, stacks, running, was_stopped=was_stopped)


@pytest.mark.parametrize(
    ("wait_status", "running", "kind", "where", "text"),
    [
        # What an environment does to its process.
        (EXITED_3, (2, 1), "crashed", (2, 1), "with exit code 3"),
        (0, (2, NOBODY), "crashed", (2, None), "with exit code 0"),
        (signal.SIGSEGV, (2, 1), "crashed", (2, 1), "by SIGSEGV"),
        # The system ends what takes too much memory, and that is who runs.
        (signal.SIGKILL, (2, 1), "crashed", (2, 1), "by SIGKILL"),
        (EXITED_3, NOWHERE, "crashed", (None, None), "with exit code 3"),
        (signal.SIGRTMIN + 1, NOWHERE, "crashed", (None, None), f"by signal {signal.SIGRTMIN + 1}"),
        # What is done to it from outside.
        (signal.SIGKILL, NOWHERE, "was killed", (None, None), "by SIGKILL"),
        (signal.SIGTERM, (2, 1), "was killed", (None, None), "by SIGTERM"),
        (signal.SIGHUP, NOWHERE, "was killed", (None, None), "by SIGHUP"),
        (None, (2, 1), "was killed", (None, None), "with the one that watched over it"),
    ],
)
def test_an_end_is_laid_at_the_door_of_who_caused_it(
    wait_status: int | None, running: tuple[int, int], kind: str,
    where: tuple[int | None, int | None], text: str,
) -> None:  # fmt: skip
    crash = end(wait_status, running, "stacks\n")
    assert crash == CrashReport(kind, *where, f"stacks\nits process ended {text}")


def test_what_hung_is_told_from_what_was_stopped() -> None:
    hung = end(1 << 8, (2, 1), "Timeout (0:00:01)!\n  in step")
    assert hung == CrashReport("hung", 2, 1, "Timeout (0:00:01)!\n  in step")
    stopped = end(1 << 8, (2, 1), "Timeout (0:00:01)!\n", was_stopped=True)
    assert (stopped.kind, stopped.group, stopped.index) == ("stopped", None, None)
    # It was stopped, and then came to another end.
    assert end(EXITED_3, (2, 1), was_stopped=True).kind == "crashed"


@pytest.mark.parametrize(
    ("crash", "line"),
    [(CrashReport("crashed", 3, 2, "why"), "crashed in environment 2 of group 3"),
     (CrashReport("hung", 3, None, "why"), "hung in group 3"),
     (CrashReport("crashed", None, None, "why"), "crashed between two steps"),
     (CrashReport("was killed", 1, None, "why"), "was killed"),
     (CrashReport("stopped", None, None, "why"), "stopped for longer than a step may take")],
)  # fmt: skip
def test_an_end_is_described_for_a_person(crash: CrashReport, line: str) -> None:
    assert describe(crash) == f"its process {line} and is started again\nwhy"
    steering = describe(dataclasses.replace(crash, text="a\x1b[2J\nb"))
    assert steering.endswith("\na\\x1b[2J\nb")
