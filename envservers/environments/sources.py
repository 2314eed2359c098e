"""Files that this process has imported, and whether one of them has been edited since."""

from __future__ import annotations

import os
import sys


class Sources:
    """The files of all modules that were imported after this object was made."""

    def __init__(self) -> None:
        """None yet."""
        self._before = set(sys.modules)
        # Time of the last change and size, as they were when a file was first seen.
        self._seen: dict[str, tuple[int, int]] = {}

    def find_changed(self) -> str:
        """A file that is not as it was when it was first seen here; empty where all are."""
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if name in self._before or not isinstance(path, str):
                continue
            try:
                state = os.stat(path)
            except OSError:
                # It has been removed: there is no new code to run.
                continue
            now = (state.st_mtime_ns, state.st_size)
            if self._seen.setdefault(path, now) != now:
                return path
        return ""
