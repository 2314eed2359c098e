"""CPU time of a process and of those that it started, by the names of their threads. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

SERVER_EMULATOR, SERVER_MAIN, SERVER_IO = "emulator threads", "main threads", "ZeroMQ threads"
SERVER_GROUPS = (SERVER_EMULATOR, SERVER_MAIN, SERVER_IO)
INFERENCE, LEARNER = "inference", "learner"
CENTRAL_IO, CENTRAL_OTHERS = "central ZeroMQ threads", "other central threads"
GROUPS = (*SERVER_GROUPS, INFERENCE, LEARNER, CENTRAL_IO, CENTRAL_OTHERS)


class Stat(NamedTuple):
    """What a `stat` file of /proc says.

    Attributes:
        name: Of the thread, or of the process's first one; 15 bytes at most.
        parent: The process that started the process.
        cpu_s: Seconds on a core, in the system's ticks (10 ms as a rule).
    """

    name: str
    parent: int
    cpu_s: float


class Thread(NamedTuple):
    """A thread of the learner's process or of one that it has started.

    Attributes:
        pid: Its process.
        tid: Itself; equal to `pid` for a process's first thread.
        name: As the system knows it.
    """

    pid: int
    tid: int
    name: str


def parse_stat(text: str) -> Stat:
    """Reads the line of a `stat` file, in which the name may hold spaces and brackets."""
    name, _, rest = text.partition("(")[2].rpartition(") ")
    fields = rest.split()
    return Stat(name, int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


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
    """Returns `root` and the processes that it and they have started.

    Args:
        root: A process.
        parents: Of every process, by its own number.
    """
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def read_threads(root: int) -> dict[Thread, float]:
    """Returns the CPU seconds so far of every thread of a process and of its descendants."""
    stats = _read_stats(path / "stat" for path in _PROC.iterdir() if path.name.isdecimal())
    parents = {pid: stat.parent for pid, stat in stats.items()}
    times_s = {}
    for pid in find_descendants(root, parents):
        tasks = _PROC / str(pid) / "task"
        for tid, stat in _read_stats(_paths(tasks)).items():
            times_s[Thread(pid, tid, stat.name)] = stat.cpu_s
    return times_s


def _paths(tasks: Path) -> list[Path]:
    try:
        return [path / "stat" for path in tasks.iterdir()]
    except OSError:
        return []


def _read_stats(paths: Iterable[Path]) -> dict[int, Stat]:
    """By number of the process or thread; those that end meanwhile are left out."""
    stats = {}
    for path in paths:
        try:
            stats[int(path.parent.name)] = parse_stat(path.read_text())
        except OSError:
            continue
    return stats


def read_busy_s() -> float:
    """Returns the seconds in which the cores that this process may use were busy, summed.

    With whatever: the difference to this process's own is what others took.
    """
    usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy_ticks = 0
    for line in (_PROC / "stat").read_text().splitlines():
        core, *ticks = line.split()
        if core in usable:
            # user, nice, system, (idle, waiting for a disk,) interrupts, soft interrupts, stolen
            busy_ticks += sum(int(ticks[place]) for place in (0, 1, 2, 5, 6, 7))
    return busy_ticks / _TICKS_PER_S


def sum_groups(
    before: Mapping[Thread, float], after: Mapping[Thread, float], learner_pid: int
) -> dict[str, float]:
    """Returns CPU seconds between two readings by group; threads that ended between count zero."""
    seconds = dict.fromkeys(GROUPS, 0.0)
    for thread, cpu_s in after.items():
        seconds[group_of(thread, learner_pid)] += cpu_s - before.get(thread, 0.0)
    return seconds
