"""What a learner under faults shows of itself: its metrics, its memory, its open files."""

from __future__ import annotations

import contextlib
import json
import os
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from tools.watching import memory_bytes

Line = dict[str, Any]


class Tail:
    """Reads the lines of a `metrics.jsonl` that have been added since the last look."""

    def __init__(self, path: Path) -> None:
        """The file need not exist yet."""
        self._path = path
        self._seen: list[bytes] = []

    def read(self) -> list[Line]:
        """The new whole lines. What a killed process left of a line is skipped.

        A start that goes on from a checkpoint takes lines from the end: those after are new.
        """
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        there = data[: data.rfind(b"\n") + 1].splitlines()
        pairs = zip(there, self._seen, strict=False)
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._seen = there
        lines = []
        for text in there[known:]:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return lines


class Sample(NamedTuple):
    """What a process holds in RAM, and its file descriptors, at one monotonic time."""

    at_s: float
    pid: int
    memory_bytes: int
    open_files: int


def take_sample(pid: int, at_s: float) -> Sample | None:
    """What /proc says of a process; None where it has ended."""
    try:
        return Sample(at_s, pid, memory_bytes(pid), len(os.listdir(f"/proc/{pid}/fd")))
    except OSError:
        return None


class Growth(NamedTuple):
    """How a process grew in so many seconds after its warm-up, along a straight line.

    Open files are the fewest in the first fifth of the time and in the last.
    """

    seconds: float
    memory_mib_per_min: float
    memory_mib: float
    open_files_first: int
    open_files_last: int

    def text(self) -> str:
        """The same in one line."""
        return (
            f"learner's memory: {self.memory_mib:.0f} MiB, {self.memory_mib_per_min:+.2f} MiB a "
            f"minute over its last {self.seconds:.0f} s; open files: {self.open_files_first} then "
            f"{self.open_files_last}"
        )


def growth(samples: list[Sample], warm_up_s: float) -> Growth | None:
    """Of the process that was seen longest; None without ten samples after its warm-up.

    The fewest descriptors of a time are those that no fault of that time explains.
    """
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.pid, []).append(sample)
    longest = max(lives.values(), key=len, default=[])
    seen = [sample for sample in longest if sample.at_s >= longest[0].at_s + warm_up_s]
    if len(seen) < 10:
        return None
    at_min = [(sample.at_s - seen[0].at_s) / 60 for sample in seen]
    memory = [sample.memory_bytes / 2**20 for sample in seen]
    mean_at, mean_memory = sum(at_min) / len(seen), sum(memory) / len(seen)
    covariance = sum((a - mean_at) * (m - mean_memory) for a, m in zip(at_min, memory, strict=True))
    variance = sum((a - mean_at) ** 2 for a in at_min)
    fifth = max(1, len(seen) // 5)
    return Growth(
        seen[-1].at_s - seen[0].at_s,
        covariance / variance if variance else 0.0,
        memory[-1],
        min(sample.open_files for sample in seen[:fifth]),
        min(sample.open_files for sample in seen[-fifth:]),
    )
