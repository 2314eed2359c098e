"""The same bare work in one process per core, all at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple, Self

from tools.bench.bare_work import Pace, Task, serve
from tools.bench.processes import ProcessFailed


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


class Workers:
    """Processes that do bare work when asked, and sleep meanwhile; a context manager."""

    def __init__(self, count: int, words: list[str]) -> None:
        """Starts them.

        Args:
            count: Processes.
            words: The command line of `seed-learner` that says which run the work is of.
        """
        # A process forked from one that has loaded torch would share its threads' locks.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, words))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def measure(self, task: Task, processes: int | None = None) -> Cost:
        """Returns what the task's work costs with all processes at it, or so many of them.

        Raises:
            ProcessFailed: where the work fails.
        """
        pipes = self._pipes[:processes]
        try:
            _send(pipes, task)
            _receive(pipes)
            _send(pipes, "measure")
            paces = _receive(pipes)
            _send(pipes, "rest")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ProcessFailed(f"bare {task.kind} failed; its reason is above") from None
        return cost_of(paces)


def _send(pipes: Sequence[Connection], message: object) -> None:
    for pipe in pipes:
        pipe.send(message)


def _receive(pipes: Sequence[Connection]) -> list[Any]:
    return [pipe.recv() for pipe in pipes]
