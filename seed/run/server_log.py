"""What local environment servers print: read without waiting, and kept in files that stay small."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from seed.process.plain_files import open_to_append
from seed.wire.terminal import printable

_LIMIT_BYTES = 2 * 2**20
# A longer line is broken: who never ends one must not fill the memory.
_LONGEST_LINE = 4096
_READ_BYTES = 16_384


class BoundedLog:
    """A text file whose beginning and end are kept; what is between is dropped.

    Lines go to FILE. When it is full it becomes FILE.first, unless there is one, or else
    FILE.previous in place of the one before, and FILE begins anew. What cannot be written is
    dropped too, and the next line that can be says how much.
    """

    def __init__(self, file: Path, limit_bytes: int = _LIMIT_BYTES) -> None:
        """Goes on where an earlier process has left off; opens nothing yet."""
        self._file, self._limit_bytes = file, limit_bytes
        self._first = file.with_name(f"{file.name}.first")
        self._previous = file.with_name(f"{file.name}.previous")
        self._lost_bytes = 0

    def write(self, text: bytes) -> None:
        """Appends whole lines."""
        try:
            # Opened for each: somebody may have moved or removed it, and files that are kept open
            # would be missing where many servers are connected.
            with open_to_append(self._file) as opened:
                size_bytes = os.fstat(opened.fileno()).st_size
                full = size_bytes > 0 and size_bytes + len(text) > self._limit_bytes
                if not full:
                    self._append(opened.fileno(), text)
            if full:
                self._begin_anew()
                with open_to_append(self._file) as opened:
                    self._append(opened.fileno(), text)
        except OSError:
            self._lost_bytes += len(text)

    def _append(self, file: int, text: bytes) -> None:
        note = b""
        if self._lost_bytes:
            # The last line may be half a one.
            note = f"\n({self._lost_bytes} bytes could not be written here)\n".encode()
        written = os.write(file, note + text)
        if written < len(note):
            self._lost_bytes += len(text)
        else:
            self._lost_bytes = len(note) + len(text) - written

    def _begin_anew(self) -> None:
        if not self._first.exists():
            self._file.replace(self._first)
            note = f"(goes on from {self._first.name})\n"
        else:
            dropped = self._previous.exists()
            self._file.replace(self._previous)
            between = f"; lines between {self._first.name} and that are dropped"
            note = f"(goes on from {self._previous.name}{between if dropped else ''})\n"
        self._file.write_bytes(note.encode())


class ServerOutput:
    """What one process prints, and those that it starts: taken apart into lines, and escaped.

    Attributes:
        writer: For the process that is about to be started.
        last_line: The last line that was not empty.
    """

    def __init__(self, log: BoundedLog) -> None:
        """Raises OSError where the system has no file left."""
        self._log = log
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._begun = ""
        self.last_line = ""
        self.ended = False
        # So that there is a log to look into, also of a process that prints nothing.
        log.write(b"")

    def release_writer(self) -> None:
        """The process has been started, or could not be."""
        os.close(self.writer)

    def read(self) -> int:
        """Takes in some of what has been printed; returns how many bytes, 0 where nothing waits."""
        if self.ended:
            return 0
        try:
            data = os.read(self._reader, _READ_BYTES)
        except BlockingIOError:
            return 0
        self._take(self._decode(data, not data))
        if not data:
            self._close()
        return len(data)

    def finish(self) -> None:
        """Takes in what is left of a process that has ended."""
        # At most what the pipe holds: a process that still has it may print for ever.
        for _ in range(8):
            if not self.read():
                break
        self._close()

    def _take(self, text: str) -> None:
        *lines, self._begun = (self._begun + text).split("\n")
        whole: list[str] = []
        for line in lines:
            whole += _pieces(line) or [""]
        while len(self._begun) >= _LONGEST_LINE:
            whole.append(self._begun[:_LONGEST_LINE])
            self._begun = self._begun[_LONGEST_LINE:]
        self._keep(whole)

    def _keep(self, lines: list[str]) -> None:
        shown = [printable(line.rstrip("\r")) for line in lines]
        self.last_line = next((line for line in reversed(shown) if line.strip()), self.last_line)
        if shown:
            self._log.write("".join(f"{line}\n" for line in shown).encode())

    def _close(self) -> None:
        if not self.ended:
            self._keep([self._begun] if self._begun else [])
            os.close(self._reader)
            self._begun, self.ended = "", True


def _pieces(line: str) -> list[str]:
    return [line[begin : begin + _LONGEST_LINE] for begin in range(0, len(line), _LONGEST_LINE)]
