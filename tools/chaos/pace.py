"""How fast the others train around the kill of an environment server; arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tools.chaos.faults import Fault

Progress = Sequence[tuple[float, Sequence[int]]]
"""Times in seconds since the training's start, each with the unrolls so far by environment
server."""


class TooSlow(Exception):
    """Nothing was learned from in a window, so that there is no pace to compare with."""


class Trial(NamedTuple):
    """A kill, and a time before it at which nothing happened.

    Attributes:
        fault: The kill of one environment server; it ends with the start of its successor.
        control_s: In seconds since the training's start, as the times of the fault.
        cores_busy: Cores that were busy between the two, with whatever.
    """

    fault: Fault
    control_s: float
    cores_busy: float


class Ratios(NamedTuple):
    """The others' pace in a window after something, over that in the window before it.

    Attributes:
        kill: After the kill.
        restart: After the start of the killed server's successor; over the window before the kill.
        control: After nothing.
    """

    kill: float
    restart: float
    control: float


def compare(trial: Trial, progress: Progress, window_s: float) -> Ratios:
    """The ratios of a trial, of which all windows lie between the first time and the last.

    Raises:
        TooSlow: where the others gave no unroll in a window before.
    """
    fault = trial.fault
    assert fault.ended_s is not None

    def pace(start_s: float) -> float:
        return find_pace(progress, start_s, start_s + window_s, fault.servers)

    before_kill, before_control = pace(fault.began_s - window_s), pace(trial.control_s - window_s)
    if not before_kill or not before_control:
        raise TooSlow(
            f"the others gave no unroll in {window_s:g} s before {fault.began_s:.1f} s; "
            "windows must be longer, or steps shorter"
        )
    return Ratios(
        kill=pace(fault.began_s) / before_kill,
        restart=pace(fault.ended_s) / before_kill,
        control=pace(trial.control_s) / before_control,
    )


def find_pace(progress: Progress, start_s: float, end_s: float, but: Sequence[int]) -> float:
    """Unrolls per second between two times, without those of these environment servers.

    Between two counts they are taken to have come evenly: a stall that begins with the window is
    in it as a whole, whenever the next count was taken.
    """
    times_s = [at_s for at_s, _ in progress]
    counts = [
        sum(count for server, count in enumerate(by_server) if server not in but)
        for _, by_server in progress
    ]
    first, last = np.interp((start_s, end_s), times_s, counts).tolist()
    pace: float = (last - first) / (end_s - start_s)
    return pace
