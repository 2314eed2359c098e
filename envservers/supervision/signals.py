"""Signals as something to wait for, beside files."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Requests to stop and ends of children, as something to wait for."""

    def __init__(self) -> None:
        """Takes over the signals; called by the main thread."""
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._wake_fd = signal.set_wakeup_fd(self._writer)
        self._handlers = {
            number: signal.signal(number, lambda number, frame: None)
            for number in (*STOP_SIGNALS, signal.SIGCHLD)
        }

    def __enter__(self) -> Signals:
        """Changes nothing."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leaves signals as they were before."""
        self.restore()

    def restore(self) -> None:
        """Leaves signals as they were before."""
        if self._handlers:
            signal.set_wakeup_fd(self._wake_fd)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers = {}
            os.close(self._reader)
            os.close(self._writer)

    def wait(self, timeout_s: float, files: Iterable[int] = ()) -> list[int]:
        """The requests to stop that have come.

        Returns at once where something has happened, or one of the files can be read.
        """
        ready = select.select([self._reader, *files], [], [], timeout_s)[0]
        if self._reader not in ready:
            return []
        return [number for number in os.read(self._reader, 4096) if number in STOP_SIGNALS]
