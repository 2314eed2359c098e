"""Processes that measure when they are asked through a pipe, several at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from tools.bench.processes import ProcessFailed


class PipedProcesses:
    """Processes with a pipe to each; a context manager that ends them."""

    def __init__(self, count: int, serve: Callable[..., None], *arguments: object) -> None:
        """Starts them.

        Args:
            count: Processes.
            serve: What each of them runs, given its end of the pipe and the arguments.
            arguments: The same for all.
        """
        # A forked process would share sockets, and the locks of torch's threads.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, *arguments))
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

    def ask(self, what: str, messages: list[Any], count: int | None = None) -> list[Any]:
        """Sends each message once all processes have answered the one before.

        Args:
            what: The work, for errors.
            messages: One at least.
            count: How many processes are asked; all where not given.

        Returns:
            The answers to the last message.

        Raises:
            ProcessFailed: where a process has ended.
        """
        answers: list[Any] = []
        try:
            for message in messages:
                self.tell(message, count)
                answers = [pipe.recv() for pipe in self._pipes[:count]]
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ProcessFailed(f"{what} failed; its reason is above") from None
        return answers

    def tell(self, message: Any, count: int | None = None) -> None:
        """Sends a message that has no answer to all processes, or to the first `count`."""
        for pipe in self._pipes[:count]:
            pipe.send(message)
