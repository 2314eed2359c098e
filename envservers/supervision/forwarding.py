"""Forwards what an environment server and its environments print.

They print into pipes that the supervisor reads, so that printing never fails or waits, whatever
becomes of the supervisor's own output. That holds for Python, C and processes of their own.
"""

from __future__ import annotations

import contextlib
import os

from seed.wire.terminal import Outlet, shield_output

_READ_BYTES = 65_536
# After the end of a process there is at most what its pipe holds, and what others still print.
_REST_READS = 16


class Forwarding:
    """Standard output and standard error of the processes below, passed on to this one's own."""

    def __init__(self) -> None:
        self._streams = (_Stream(1), _Stream(2))

    @property
    def descriptors(self) -> list[int]:
        """Files that become readable when something has been printed."""
        return [stream.reader for stream in self._streams]

    def enter(self) -> None:
        """Makes this process, a forked one, print into the pipes."""
        for stream in self._streams:
            os.dup2(stream.writer, stream.descriptor)
            stream.close()
        shield_output()

    def forward(self) -> bool:
        """Passes some of it on without waiting; False where there was nothing."""
        forwarded = [stream.forward() for stream in self._streams]
        return any(forwarded)

    def forward_rest(self) -> None:
        """Passes on what a process that has ended has left."""
        for _ in range(_REST_READS):
            if not self.forward():
                return

    def __enter__(self) -> Forwarding:
        """Changes nothing."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the pipes."""
        for stream in self._streams:
            stream.close()


class _Stream:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self._outlet = Outlet(descriptor, 0.0)
        self._lost_bytes = 0

    def forward(self) -> bool:
        try:
            data = os.read(self.reader, _READ_BYTES)
        except BlockingIOError:
            return False
        if self._reports_loss():
            self._lost_bytes = len(data) - self._outlet.put(data)
        else:
            self._lost_bytes += len(data)
        return True

    def _reports_loss(self) -> bool:
        """Whether what comes next may be passed on."""
        if not self._lost_bytes:
            return True
        line = f"\nseed-envserver: {self._lost_bytes} bytes left out here, which nobody took\n"
        return self._outlet.put(line.encode()) == len(line)

    def close(self) -> None:
        for end in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(end)
