"""Whose fault an exception is: which line of an algorithm's own code has raised it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seed.config.schema import ConfigError
from seed.process.exit_codes import CommandError
from seed.process.quoting import shorten

_PACKAGE = Path(__file__).parents[1]
_ALGORITHMS = _PACKAGE / "algorithms"


@contextlib.contextmanager
def refusing(algorithm: Any, name: str, function: str) -> Iterator[None]:
    """For a call of one of the algorithm's functions before anything has started.

    Args:
        algorithm: The module.
        name: Its name in the configuration.
        function: What is called.

    Raises:
        ConfigError: of one line, where the function raises anything but an error for users or
            that the device has too little memory.
    """
    try:
        yield
    except (CommandError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = _own_frames(error, algorithm) or _foreign_frames(error)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        raise ConfigError(
            f"algorithm.name = {name!r}: {function} raises {_say(error)}{place}"
        ) from error


def whose(error: BaseException, algorithm: Any, name: str) -> str:
    """One line about an exception that a line of the algorithm's module has led to; "" for others.

    For a run that is under way, whose traceback follows.
    """
    frames = _own_frames(error, algorithm)
    if not frames or isinstance(error, CommandError):
        return ""
    return (
        f"algorithm.name = {name!r}: {frames[0].name} raises {_say(error)} at "
        f"{frames[-1].filename}:{frames[-1].lineno}"
    )


def _say(error: BaseException) -> str:
    said = str(error).partition("\n")[0]
    return shorten(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def _own_frames(error: BaseException, algorithm: Any) -> list[traceback.FrameSummary]:
    """Where the error went through the algorithm's file, the outermost first."""
    file = getattr(algorithm, "__file__", None)
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]


def _foreign_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where the error went through the first file that is not this package's."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame.filename for frame in frames if not _is_ours(Path(frame.filename))]
    return [frame for frame in frames if frame.filename in files[:1]]


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(_PACKAGE) and not path.is_relative_to(_ALGORITHMS)
