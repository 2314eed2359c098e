"""Odd entries of a folder, where a file or a folder is expected."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_S = 300.0


def put(path: Path, kind: str) -> None:
    """Makes a "folder", an empty "file", one of "bytes", a "pipe" or a link.

    A "link" leads nowhere, a "loop" to itself, and a "device" to one that never ends.
    """
    match kind:
        case "folder":
            path.mkdir()
        case "file":
            path.touch()
        case "bytes":
            path.write_bytes(bytes(range(256)))
        case "pipe":
            os.mkfifo(path)
        case _:
            elsewhere = {"link": f"missing disk/{path.name}", "device": "/dev/zero"}
            path.symlink_to(elsewhere.get(kind, str(path)))


@contextmanager
def idle_pipe(path: Path) -> Iterator[None]:
    """A pipe at the path that nobody writes to; who waits for that is relieved, and has failed.

    Only its owner may use it.
    """
    os.mkfifo(path, 0o600)
    done, waited = threading.Event(), threading.Event()

    def relieve() -> None:
        while not done.wait(_PATIENCE_S):
            waited.set()
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    relief = threading.Thread(target=relieve)
    relief.start()
    try:
        yield
        assert not waited.is_set(), "somebody waited for a writer"
    finally:
        done.set()
        relief.join()
