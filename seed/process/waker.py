"""How one thread wakes another that waits for a socket."""

from __future__ import annotations

import contextlib
import os
import threading


class Waker:
    """A pipe that can be polled beside sockets; all but `wake` belongs to the thread that waits."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """What to poll: readable once somebody has called `wake`."""
        return self._reader

    def wake(self) -> None:
        """Makes the pipe readable; by any thread, also after `close`."""
        # Full of earlier calls, it is readable anyway.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._writer, b"w")

    def clear(self) -> None:
        """The pipe is readable again only after the next `wake`."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def close(self) -> None:
        """Gives the pipe back."""
        with self._lock:
            self._closed = True
        os.close(self._reader)
        os.close(self._writer)
