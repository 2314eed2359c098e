"""The same bare work in one process per core, all at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tools.bench.bare_work import Pace, Task, serve
from tools.bench.piped_processes import PipedProcesses


class Cost(NamedTuple):
    """What work costs while all its processes are busy with it.

    Attributes:
        core_us: Core-microseconds per environment step, by the clock.
        cpu_us: CPU-microseconds per environment step.
    """

    core_us: float
    cpu_us: float


def cost_of(paces: Sequence[Pace]) -> Cost:
    """Returns the cost of work that processes did at the same time at these paces."""
    steps_per_s = sum(pace.steps / pace.elapsed_s for pace in paces)
    cpu_s_per_step = sum(pace.cpu_s for pace in paces) / sum(pace.steps for pace in paces)
    return Cost(1e6 * len(paces) / steps_per_s, 1e6 * cpu_s_per_step)


def start_workers(count: int, words: list[str]) -> PipedProcesses:
    """Starts processes that do bare work when asked, and sleep meanwhile.

    Args:
        count: Processes.
        words: The command line of `seed-learner` that says which run the work is of.
    """
    return PipedProcesses(count, serve, words)


def measure_cost(workers: PipedProcesses, task: Task, count: int | None = None) -> Cost:
    """Returns what the task's work costs with all workers at it, or so many of them.

    Raises:
        ProcessFailed: where the work fails.
    """
    paces: list[Pace] = workers.ask(f"bare {task.kind}", [task, "measure"], count)
    workers.tell("rest", count)
    return cost_of(paces)
