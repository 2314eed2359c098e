"""The same bare work in one process per core, all at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

from tools.bench.bare_work import Pace, Task, serve
from tools.processes import ProcessFailed


class Cost(NamedTuple):
    """Core-microseconds per environment step while all processes are busy with the same work.

    `core_us` is by the clock, `cpu_us` by CPU time.
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

    def __init__(
        self, count: int, words: list[str], serve: Callable[..., None] = serve
    ) -> None:
        """Starts them; `words` are the command line of `seed-learner` for the run they work for."""
        # A forked process would share sockets, and the locks of torch's threads.
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

    def __exit__(self, *exception: object) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def measure(self, task: Task, count: int | None = None) -> Cost:
        """Returns what the task's work costs with all processes at it, or so many of them.

        Raises:
            ProcessFailed: where the work fails.
        """
        pipes = self._pipes[:count]
        try:
            # Each prepares itself, and all begin together.
            for message in (task, "measure"):
                paces = _ask(pipes, message)
            # Whoever has measured goes on until everyone has.
            for pipe in pipes:
                pipe.send("rest")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ProcessFailed(f"bare {task.kind} failed; its reason is above") from None
        return cost_of(paces)


def _ask(pipes: Sequence[Connection], message: object) -> list[Any]:
    """Sends a message to all of them, and waits for all the answers."""
    for pipe in pipes:
        pipe.send(message)
    return [pipe.recv() for pipe in pipes]
