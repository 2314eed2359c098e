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
from typing import Any, TextIO

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


def shield_output() -> None:
    """Sees to it that what cannot be printed is lost, and nothing else: no exception, no exit code.

    Whatever keeps `sys.stdout` and `sys.stderr` from taking text from here on (a full disk, a limit
    on the size of files, a closed pipe or file, letters that the encoding does not have) costs the
    text. Standard error waits for a reader for a second, and then no more until one reads again;
    standard output, which may be the result that somebody has asked for, waits for as long as it
    takes. Descriptors 0 to 2 that are closed are opened, reading and writing nothing: else a
    socket or a checkpoint would get the number, and all that C code prints.

    To be called before a log is set up, as that keeps the file that it has found.
    """
    for descriptor in range(_STDERR + 1):
        _open(descriptor)
    for descriptor, name in ((1, "stdout"), (_STDERR, "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or _is_unshielded(stream, descriptor):
            with contextlib.suppress(OSError):
                setattr(sys, name, _shielded(descriptor, name, stream))


def print_at_once(text: str) -> None:
    """Prints on standard error where nothing may wait, fail or need a lock: in a signal handler."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, text.encode(errors="backslashreplace")[:_PIECE_BYTES])


def open_at_once() -> int:
    """A descriptor of standard error whose writes never wait, for C code that prints there.

    Where there is none (a file, whose writes never wait either, or a terminal that may not be
    opened again), standard error itself.
    """
    try:
        if stat.S_ISREG(os.fstat(_STDERR).st_mode):
            return _STDERR
        # Opened anew: a flag of the descriptor that is there would be everybody's who has it.
        return os.open(f"/dev/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return _STDERR


def _open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        # Those below are open, so that this is the number that it gets.
        with contextlib.suppress(OSError):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _is_unshielded(stream: TextIO, descriptor: int) -> bool:
    """Whether the stream is this process's own, and not one that somebody has put in its place."""
    if isinstance(getattr(stream, "buffer", None), _Shielded):
        return False
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _shielded(descriptor: int, name: str, stream: TextIO | None) -> TextIO:
    # Without a buffer of bytes, which a signal handler that prints may find in use.
    raw: Any = _Shielded(descriptor, _PATIENCE_S if descriptor == _STDERR else None)
    raw.name = f"<{name}>"
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return io.TextIOWrapper(
        raw,
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == _STDERR or raw.isatty(),
    )


class _Shielded(io.FileIO):
    """A descriptor that takes everything; what cannot be written is lost."""

    def __init__(self, descriptor: int, patience_s: float | None) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._patience_s = patience_s
        self._is_read = True

    def write(self, data: Any) -> int:
        """Says that it has written all, whatever came of it."""
        whole = memoryview(data).cast("B")
        rest = whole
        with contextlib.suppress(OSError):
            while rest and self._is_ready():
                rest = rest[super().write(rest[:_PIECE_BYTES]) or 0 :]
        return len(whole)

    def _is_ready(self) -> bool:
        """Whether something can be written, now or soon."""
        patience_s = self._patience_s if self._is_read else 0.0
        self._is_read = bool(select.select([], [self.fileno()], [], patience_s)[1])
        return self._is_read

    def close(self) -> None:
        """Stays open: whoever closes a standard stream does not mean to fail the next print."""
