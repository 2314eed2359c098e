"""What processes of both sides print: never anything that a terminal obeys, never an error.

The standard library only: the supervisor imports it.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

_STDERR = 2
# How long a line waits for a reader who does not read, a terminal that is held say.
_PATIENCE_S = 1.0
# A pipe that takes anything takes that much at once (Linux).
_PIECE_BYTES = 4096


def printable(text: str, *, lines: bool = False) -> str:
    """The text with all that a terminal would not just print escaped; `lines` keeps line ends."""
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or (lines and letter == "\n")
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )


def counted(number: int, noun: str) -> str:
    """So many of them: "1 environment", "2 environments"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shield_output() -> None:
    """Sees to it that what cannot be printed is lost, and nothing else: no exception, no exit code.

    Whatever keeps `sys.stdout` and `sys.stderr` from taking text from here on (a full disk, a limit
    on the size of files, a closed pipe or file, letters that the encoding does not have) costs the
    text. Standard error waits for a reader for a second, and then no more until one reads again;
    standard output, which may be the result that somebody has asked for, waits for as long as it
    takes. Descriptors 0 to 2 that are closed are opened, reading and writing nothing: else a
    socket or a checkpoint would get the number, and all that C code prints.

    To be called before a log is set up, as that keeps the file that it has found; and again after
    descriptor 1 or 2 has been given another meaning.
    """
    for descriptor in range(_STDERR + 1):
        _open(descriptor)
    for descriptor, name in ((1, "stdout"), (_STDERR, "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or _writes_to(stream, descriptor):
            with contextlib.suppress(OSError):
                setattr(sys, name, _shielded(descriptor, name, stream))


def keep_stdout_for_results() -> None:
    """Leaves standard output to what this process prints as its result, and to nothing else.

    What C code writes there, and whatever this process starts, gets to standard error.
    """
    sys.stdout.flush()
    with contextlib.suppress(OSError):
        results = os.dup(1)
        os.dup2(_STDERR, 1)
        sys.stdout = _shielded(results, "stdout", sys.stdout)


def print_at_once(text: str) -> None:
    """Prints on standard error what may neither wait nor fail, from a signal handler say."""
    Outlet(_STDERR, 0.0).put(text.encode(errors="backslashreplace"))


def open_at_once() -> int:
    """A descriptor of standard error whose writes never wait, for C code that prints there.

    Where there is none (a terminal that may not be opened again), standard error itself.
    """
    try:
        # Writes to a file never wait; opened again, it would be written from its beginning.
        is_file = stat.S_ISREG(os.fstat(_STDERR).st_mode)
    except OSError:
        return _STDERR
    return _STDERR if is_file else _unblocked(_STDERR)


def _open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        # Those below are open, so that this is the number that it gets.
        with contextlib.suppress(OSError):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    """Whether the stream is this process's own, and not one that somebody has put in its place."""
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _shielded(descriptor: int, name: str, stream: TextIO | None) -> TextIO:
    raw: Any = _Shielded(descriptor, _PATIENCE_S if descriptor == _STDERR else None)
    raw.name = f"<{name}>"
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return _Text(
        raw,
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == _STDERR or raw.isatty(),
    )


class Outlet:
    """A descriptor to write to, without an exception and without waiting for long."""

    def __init__(self, descriptor: int, patience_s: float | None) -> None:
        """Waits for a reader for so long, and then no more until one reads; None for ever."""
        self._descriptor = descriptor
        if patience_s is not None and os.isatty(descriptor):
            self._descriptor = _unblocked(descriptor)
        self._patience_s, self._is_read = patience_s, True

    def put(self, data: Buffer) -> int:
        """Writes as much as it can; returns how many bytes that were."""
        rest = memoryview(data).cast("B")
        size_bytes = len(rest)
        with contextlib.suppress(OSError):
            while rest and self._is_ready():
                rest = rest[os.write(self._descriptor, rest[:_PIECE_BYTES]) :]
        return size_bytes - len(rest)

    def _is_ready(self) -> bool:
        """Whether something can be written, now or soon."""
        patience_s = self._patience_s if self._is_read else 0.0
        # A new one each time: none may be used by two threads, or by a signal handler meanwhile.
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        self._is_read = bool(poll.poll(None if patience_s is None else patience_s * 1000))
        return self._is_read


def _unblocked(descriptor: int) -> int:
    """The same terminal or pipe, for which a write does not wait; not so for others who have it."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return descriptor


class _Shielded(io.FileIO):
    """A descriptor that takes everything; what cannot be written is lost.

    What waits to be written is in a queue that several threads may use, and a signal handler that
    interrupts them: `io.BufferedWriter` raises where it is entered twice.
    """

    def __init__(self, descriptor: int, patience_s: float | None) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._outlet = Outlet(descriptor, patience_s)
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0

    def write(self, data: Buffer) -> int:
        """Says that it has written all, whatever comes of it."""
        piece = bytes(data)
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= io.DEFAULT_BUFFER_SIZE:
            self.flush()
        return len(piece)

    def flush(self) -> None:
        """Writes what waits, as far as that can be."""
        pieces = []
        self._waiting_bytes = 0
        with contextlib.suppress(IndexError):
            while True:
                pieces.append(self._pieces.popleft())
        self._outlet.put(b"".join(pieces))

    def close(self) -> None:
        """Stays open: whoever closes a standard stream does not mean to fail the next print."""
        self.flush()


class _Text(io.TextIOWrapper):
    """Text for a shielded descriptor.

    Its own buffer stays empty: entered twice, CPython 3.11's may write over the end of it.
    """

    def write(self, text: str) -> int:
        """Encodes the text, whatever letters it has, and never fails."""
        self.buffer.write(text.encode(self.encoding, "backslashreplace"))
        if self.line_buffering and "\n" in text:
            self.buffer.flush()
        return len(text)
