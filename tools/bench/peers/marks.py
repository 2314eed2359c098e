"""Lines in which a peer says how far it has come, and the speed that they tell.

Peers print them and run in a Python of their own: standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

_SIGN = "peer-mark"
_FIELDS = 3


class Mark(NamedTuple):
    """Agent decisions of all environments that had been learned from at a monotonic time."""

    time_s: float
    steps: int


def print_mark(steps: int) -> None:
    """Says that so many steps have been learned from; to be called after each update."""
    print(f"\n{_SIGN} {time.monotonic():.6f} {steps}", flush=True)


def read_marks(text: str) -> list[Mark]:
    """Returns all marks of an output; a last line without its end is left out."""
    whole = text[: text.rfind("\n") + 1]
    lines = (line.split() for line in whole.splitlines())
    return [
        Mark(float(fields[1]), int(fields[2]))
        for fields in lines
        if len(fields) == _FIELDS and fields[0] == _SIGN
    ]


def steady_window(
    marks: Sequence[Mark], settle_s: float, seconds: float
) -> tuple[Mark, Mark] | None:
    """Finds the part of a run that is measured; None as long as it is not over.

    It begins with the first mark at least `settle_s` after the first one of all, and ends with the
    first one at least `seconds` later. So it holds whole updates, however long one takes.
    """
    settled = [mark for mark in marks if mark.time_s >= marks[0].time_s + settle_s]
    ended = (mark for mark in settled if mark.time_s >= settled[0].time_s + seconds)
    last = next(ended, None)
    return None if last is None else (settled[0], last)


def steps_per_s(first: Mark, last: Mark) -> float:
    """Returns the speed between two marks."""
    return (last.steps - first.steps) / (last.time_s - first.time_s)
