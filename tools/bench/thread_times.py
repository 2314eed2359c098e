"""CPU time of a process and of those that it started, by the names of their threads. Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tools.watching import Stat, read_stat, usable_cores

_PROC = Path("/proc")

SERVER_EMULATOR, SERVER_MAIN, SERVER_IO = "emulator threads", "main threads", "ZeroMQ threads"
SERVER_GROUPS = (SERVER_EMULATOR, SERVER_MAIN, SERVER_IO)
INFERENCE, LEARNER = "inference", "learner"
CENTRAL_IO, CENTRAL_OTHERS = "central ZeroMQ threads", "other central threads"
GROUPS = (*SERVER_GROUPS, INFERENCE, LEARNER, CENTRAL_IO, CENTRAL_OTHERS)


class Thread(NamedTuple):
    """A thread `tid` of the process `pid`, whose first thread has the same number."""

    pid: int
    tid: int
    name: str


def group_of(thread: Thread, learner_pid: int) -> str:
    """Returns which of `GROUPS` the thread belongs to."""
    io = thread.name.startswith("ZMQbg")
    if thread.pid != learner_pid:
        if io:
            return SERVER_IO
        return SERVER_MAIN if thread.tid == thread.pid else SERVER_EMULATOR
    if io:
        return CENTRAL_IO
    return thread.name if thread.name in (INFERENCE, LEARNER) else CENTRAL_OTHERS


def find_descendants(root: int, parents: Mapping[int, int]) -> list[int]:
    """Returns `root` and the processes that it and they have started; `parents` is of them all."""
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def read_threads(root: int) -> dict[Thread, float]:
    """Returns CPU seconds so far of all threads of a process and of its descendants."""
    parents = {pid: stat.parent for pid, stat in _read_stats(_PROC).items()}
    return {
        Thread(pid, tid, stat.name): stat.cpu_s
        for pid in find_descendants(root, parents)
        for tid, stat in _read_stats(_PROC / str(pid) / "task").items()
    }


def _read_stats(folder: Path) -> dict[int, Stat]:
    """By number of the process or thread; those that end meanwhile are left out."""
    stats = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.isdecimal():
                with contextlib.suppress(OSError):
                    stats[int(path.name)] = read_stat(path / "stat")
    return stats


def read_busy_s() -> float:
    """Returns the seconds in which the cores that this process may use were busy, summed.

    With whatever: the difference to this process's own is what others took.
    """
    usable = {f"cpu{core}" for core in usable_cores()}
    busy_ticks = 0
    for line in (_PROC / "stat").read_text().splitlines():
        core, *ticks = line.split()
        if core in usable:
            # user, nice, system, (idle, waiting for a disk,) interrupts, soft interrupts, stolen
            busy_ticks += sum(int(ticks[place]) for place in (0, 1, 2, 5, 6, 7))
    return busy_ticks / os.sysconf("SC_CLK_TCK")


def sum_groups(
    before: Mapping[Thread, float], after: Mapping[Thread, float], learner_pid: int
) -> dict[str, float]:
    """Returns CPU seconds between two readings by group; threads that ended between count zero."""
    seconds = dict.fromkeys(GROUPS, 0.0)
    for thread, cpu_s in after.items():
        seconds[group_of(thread, learner_pid)] += cpu_s - before.get(thread, 0.0)
    return seconds
