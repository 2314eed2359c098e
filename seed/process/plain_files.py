"""Plain files: read whatever somebody has put in their place, written until they are on the disk.

Opening a pipe waits for a writer, perhaps for ever, and a device may never end: neither is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path

_PIECE_BYTES = 2**20


def open_plain(path: Path) -> FileIO:
    """Opens a plain file for reading, without a buffer; raises OSError for anything else."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return _as_plain(os.open(path, flags), path, "rb")


def open_to_append(path: Path) -> FileIO:
    """Opens a plain file, made where it is missing, whose every write goes to its end.

    Raises:
        OSError: for anything else.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return _as_plain(os.open(path, flags, 0o666), path, "ab")


def _as_plain(descriptor: int, path: Path, mode: str) -> FileIO:
    """The open file, without a buffer; closed, and an error, where it is no plain one."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a plain file", str(path))
        return FileIO(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path, most_bytes: int) -> bytes:
    """All of a plain file; raises OSError for anything else, and where it has more bytes."""
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"More than {most_bytes} bytes", str(path))
        pieces = []
        while most_bytes >= 0 and (piece := file.read(most_bytes + 1)):
            pieces.append(piece)
            most_bytes -= len(piece)
        if most_bytes < 0:
            raise OSError(errno.EFBIG, "It grows while it is read", str(path))
        return b"".join(pieces)


def digest(path: Path, sign: Callable[[], None] = lambda: None) -> str:
    """The SHA-256 of a plain file, which may be as large as a replay; `sign` at every piece."""
    found = hashlib.sha256()
    with open_plain(path) as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
            sign()
    return found.hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the path is that of this open file; raises OSError where that cannot be seen."""
    try:
        held, there = os.fstat(descriptor), path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # A file that another machine has deleted.
        if error.errno == errno.ESTALE:
            return False
        raise
    return os.path.samestat(held, there)
