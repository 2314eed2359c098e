"""Threads whose failure is the whole process's failure."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

# Linux cuts longer names of threads off, in bytes.
_LONGEST_NAME = 15
_TICK_S = 0.1


class Consequence(Exception):
    """A failure that another thread's has brought about, and that says nothing of its reason."""


class ThreadGroup:
    """Starts threads that share one stop event; an exception in any of them sets it.

    The first one is what is raised, but a Consequence gives way to its cause.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, name: str, function: Callable[[], None]) -> threading.Thread:
        """Runs the function in a thread of that name, which the system knows too."""

        def guarded() -> None:
            """Keeps what the function raises for `join`, and stops the others."""
            _tell_system(name)
            try:
                function()
            except BaseException as error:
                if self._failure is None or isinstance(self._failure, Consequence):
                    self._failure = error
                self.stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self, tick: Callable[[], None] | None = None) -> None:
        """Stops and awaits all threads; raises the first exception that one of them raised.

        `tick` is called several times a second meanwhile.
        """
        self.stop.set()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_TICK_S)
                if tick is not None:
                    tick()
        self.check()

    def check(self) -> None:
        """Raises the first exception that a thread raised, with its traceback."""
        if self._failure is not None:
            raise self._failure


def _tell_system(name: str) -> None:
    """Names the calling thread where tools of the system look: `top -H`, /proc. Linux only.

    Threads that it starts have the same name until they choose another.
    """
    comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
    with contextlib.suppress(OSError):
        comm.write_bytes(name.encode()[:_LONGEST_NAME])
