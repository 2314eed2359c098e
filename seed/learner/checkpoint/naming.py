"""Which folders are checkpoints: by exact names alone, which sort by age."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from seed.process.exit_codes import EXIT_NO_CHECKPOINT, CommandError

log = logging.getLogger(__name__)

_NAME = re.compile(r"frames-[0-9]{14}-updates-[0-9]{10}")
UNFINISHED = re.compile(rf"\.{_NAME.pattern}(\.old)?\.tmp")
# Of what else lies beside checkpoints, so many are named.
_MOST_NAMED = 5


class CheckpointError(CommandError):
    """No checkpoint can be loaded; the text says from where and why."""

    exit_code = EXIT_NO_CHECKPOINT


def name_of(env_frames: int, learner_steps: int) -> str:
    """The name of the checkpoint at this point of a run; later ones sort after it."""
    return f"frames-{env_frames:014d}-updates-{learner_steps:010d}"


def names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a folder, oldest first; none where it is not there.

    Links to folders are among them: whoever moves a checkpoint may leave one.

    Raises:
        CheckpointError: where it cannot be seen whether there are any: the folder cannot be read,
            or something else is in its place.
    """
    return sorted(
        name for name in _entries(folder)
        if _NAME.fullmatch(name) and os.path.isdir(folder / name)
    )  # fmt: skip


def warn_of_others(folder: Path) -> None:
    """Names in one line what else lies beside the checkpoints; nobody touches it."""
    ours = set(names(folder))
    others = sorted(
        name for name in _entries(folder) if name not in ours and not UNFINISHED.fullmatch(name)
    )
    if others:
        named = ", ".join(ascii(name) for name in others[:_MOST_NAMED])
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        log.warning("%s: not taken for checkpoints, and left alone: %s%s", folder, named, more)


def is_folder(path: Path) -> bool:
    """Whether it is a folder and no link to one: saves make no links, and delete none."""
    return path.is_dir() and not path.is_symlink()


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        # A link to a disk that is missing, or what somebody has put into its place.
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise CheckpointError(
                f"{folder}: expected a folder, found a file, or a link to nothing; make it a "
                "folder again, move it away to start anew, or choose another run_dir"
            ) from None
        return []
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read ({error.strerror}), and may hold checkpoints; make it "
            "readable, or choose another run_dir"
        ) from None
