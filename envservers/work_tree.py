"""Whether a secret file could be published by `git add .`; git itself is not needed."""

from __future__ import annotations

import contextlib
from fnmatch import fnmatch
from pathlib import Path


def find_publishing_tree(path: Path) -> Path | None:
    """The git work tree that the file is in, unless one of its lists of ignored files has it.

    Only patterns of names are understood (`*.key`, `keys/`), which is what such lists have for
    keys: in doubt a file counts as one that would be published.
    """
    path = path.resolve()
    names = [path.name]
    for folder in path.parents:
        lists = (folder / ".gitignore", folder / ".git" / "info" / "exclude")
        if any(_ignores(file, names) for file in lists):
            return None
        if (folder / ".git").exists():
            return folder
        names.append(folder.name)
    return None


def _ignores(file: Path, names: list[str]) -> bool:
    """Whether a pattern of this list is of the file, names[0], or of a folder around it."""
    # Not there, which is most often so, or not to be read.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        patterns = [line.strip() for line in file.read_text().splitlines()]
        return any(
            fnmatch(name, pattern.strip("/"))
            for pattern in patterns if pattern and not pattern.startswith(("#", "!"))
            for name in (names[1:] if pattern.endswith("/") else names)
        )  # fmt: skip
    return False
