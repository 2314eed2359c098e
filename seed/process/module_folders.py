"""Where modules of a user's own are found: in folders that come after everything installed.

A `queue.py`, a `numpy.py` or a `seed.py` among a user's files therefore hinders nobody.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_ROOT = str(Path(__file__).parents[2])


def working_folder() -> list[str]:
    """The folder that the command runs in; none where it has been removed."""
    try:
        return [os.getcwd()]
    except OSError:
        return []


def module_folders(config_file: Path | None, given: Iterable[str]) -> tuple[str, ...]:
    """The working folder, the one of the configuration file, then the given ones; absolute."""
    beside = [] if config_file is None else [str(config_file.parent)]
    folders: dict[str, None] = {}
    for folder in [*working_folder(), *beside, *given]:
        # A relative one is nowhere without a working folder, and TOML is UTF-8.
        with contextlib.suppress(OSError, UnicodeEncodeError):
            absolute = os.path.abspath(folder)
            absolute.encode()
            folders[absolute] = None
    return tuple(folders)


def search(folders: Iterable[str]) -> None:
    """Lets modules in these folders be imported by this process."""
    sys.path += [folder for folder in folders if folder not in sys.path]


def python_command(module: str, folders: Iterable[str]) -> list[str]:
    """The beginning of a command line that runs `main` of a module of ours, arguments to follow.

    Its process finds modules in these folders, after all others: with `python -m` the working
    folder would come before Python's own library.
    """
    # These packages are found where this one was, before the folders count: what is installed to be
    # edited is looked for last of all.
    code = (
        f"import sys; sys.path.append({_ROOT!r}); import seed, envservers; "
        f"sys.path[-1:] = {list(folders)!r}; from {module} import main; sys.exit(main())"
    )
    return [sys.executable, "-P", "-c", code]
