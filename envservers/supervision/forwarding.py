"""What an environment server and its environments print, on its way to where that is to go.

They print into pipes that the supervisor reads: from Python and from C, from processes of their own
too, nothing of it ever fails or waits, whatever becomes of the supervisor's own output.
"""

from __future__ import annotations

import contextlib
import os

from seed.wire.terminal import Outlet, shield_output

_READ_BYTES = 65_536
# After the end of a process there is at most what its pipe holds, and what others still print.
_REST_READS = 16


class Forwarding:
    """The ways of standard output and standard error from the processes below to this one's own."""

    def __init__(self) -> None:
        """Two pipes, with nobody at their other ends."""
        self._ways = (_Way(1), _Way(2))

    @property
    def descriptors(self) -> list[int]:
        """What becomes readable when something has been printed."""
        return [way.reader for way in self._ways]

    def enter(self) -> None:
        """From here on this process, a forked one, prints into the pipes."""
        for way in self._ways:
            os.dup2(way.writer, way.descriptor)
            way.close()
        shield_output()

    def forward(self) -> bool:
        """Passes some of it on, as far as that goes at once; False where there was nothing."""
        forwarded = [way.forward() for way in self._ways]
        return any(forwarded)

    def forward_rest(self) -> None:
        """Passes on what a process that has ended has left."""
        for _ in range(_REST_READS):
            if not self.forward():
                return

    def __enter__(self) -> Forwarding:
        """Nothing else."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the pipes."""
        for way in self._ways:
            way.close()


class _Way:
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
        if self._says_what_is_lost():
            self._lost_bytes = len(data) - self._outlet.put(data)
        else:
            self._lost_bytes += len(data)
        return True

    def _says_what_is_lost(self) -> bool:
        """Whether what comes next may be passed on."""
        if not self._lost_bytes:
            return True
        note = f"\nseed-envserver: {self._lost_bytes} bytes left out here, which nobody took\n"
        return self._outlet.put(note.encode()) == len(note)

    def close(self) -> None:
        for end in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(end)
