"""What a running server does: its metrics over some seconds, its CPU time, its memory. Linux only.

Figures of processes come from /proc.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.processes import POLL_S, START_TIMEOUT_S, Process

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Window(NamedTuple):
    """What a server's metrics said in some seconds.

    Attributes:
        seconds: Between the first and the last line.
        steps_per_s: Steps of all environments per second.
        updates_per_s: Of the learner.
        means: Every figure of the lines after the first, by name: mean where it was not null.
        cores_used: CPU seconds per second of the server's process.
    """

    seconds: float
    steps_per_s: float
    updates_per_s: float
    means: dict[str, float]
    cores_used: float = 0.0

    @property
    def cpu_us_per_step(self) -> float:
        """CPU time of the server's process for each step, in microseconds."""
        return self.cores_used / max(self.steps_per_s, 1e-9) * 1e6


def measure(server: Process, seconds: float, check: Callable[[], None]) -> Window:
    """Watches a server that works already for so long, and one line of its metrics longer.

    Args:
        server: Which writes metrics.
        seconds: At least so much time lies between the first line and the last.
        check: Called all the while; raises what ends the measurement, as `Processes.check` does.
    """
    seen = len(read_metrics(server.run_dir))
    start_s, start_cpu_s = time.monotonic(), cpu_seconds(server.pid)
    deadline_s = start_s + seconds + START_TIMEOUT_S
    while True:
        check()
        lines = read_metrics(server.run_dir)[seen:]
        if len(lines) > 1 and lines[-1]["time_s"] - lines[0]["time_s"] >= seconds:
            used_s = cpu_seconds(server.pid) - start_cpu_s
            cores = used_s / (time.monotonic() - start_s)
            return summarize_lines(lines)._replace(cores_used=cores)
        if time.monotonic() > deadline_s:
            raise server.failure(f"wrote no metrics for {seconds:g} s")
        time.sleep(POLL_S)


def wait_watching(seconds: float, check: Callable[[], None]) -> None:
    """Sleeps for so long, and calls `check` all the while."""
    deadline_s = time.monotonic() + seconds
    while (left_s := deadline_s - time.monotonic()) > 0:
        check()
        time.sleep(min(POLL_S, left_s))


def wait_until_learning(learner: Process, check: Callable[[], None], updates: int = 1) -> None:
    """Waits for so many updates from now on; raises ProcessFailed where they do not come."""
    lines = read_metrics(learner.run_dir)
    enough = (lines[-1]["learner_steps"] if lines else 0) + updates
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not (lines := read_metrics(learner.run_dir)) or lines[-1]["learner_steps"] < enough:
        if time.monotonic() > deadline_s:
            raise learner.failure(
                f"has not learned within {START_TIMEOUT_S:g} s; a replay can begin earlier with "
                "--override --replay.min-rows ROWS"
            )
        wait_watching(POLL_S, check)


def summarize_lines(lines: Sequence[Mapping[str, Any]]) -> Window:
    """The window between the first of these lines of metrics and the last; at least two."""
    first, last = lines[0], lines[-1]
    seconds: float = last["time_s"] - first["time_s"]
    known: dict[str, list[float]] = {}
    for line in lines[1:]:
        for name, value in line.items():
            if value is not None:
                known.setdefault(name, []).append(value)
    return Window(
        seconds,
        (last["env_steps"] - first["env_steps"]) / seconds,
        (last.get("learner_steps", 0) - first.get("learner_steps", 0)) / seconds,
        {name: sum(values) / len(values) for name, values in known.items()},
    )


def median_means(windows: Sequence[Window]) -> dict[str, float]:
    """The median of every figure that all of these windows know, by name."""
    names = set.intersection(*(set(window.means) for window in windows))
    return {
        name: statistics.median(window.means[name] for window in windows) for name in sorted(names)
    }


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; none where it does not exist yet."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Stat(NamedTuple):
    """What a `stat` file of /proc says of a thread, or of a whole process.

    Its name has 15 bytes at most; `cpu_s` is counted in the system's ticks, 10 ms as a rule.
    """

    name: str
    parent: int
    cpu_s: float


def read_stat(path: Path) -> Stat:
    """Reads a `stat` file, in which the name may hold spaces and brackets; raises OSError."""
    name, _, rest = path.read_text().partition("(")[2].rpartition(") ")
    fields = rest.split()
    return Stat(name, int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, over all its threads."""
    return read_stat(Path(f"/proc/{pid}/stat")).cpu_s


def memory_bytes(pid: int) -> int:
    """Memory of a process that is in RAM (its resident set)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))
