"""A run's folder: nothing odd in it, its configuration, and of metrics only what is the run's own.

What a process has written after its last checkpoint is played again by the next one. Lines of
`metrics.jsonl` from then would be mixed with those to come, so they are set aside first, into
`earlier/1`, `earlier/2` and so on; nothing is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from seed.config.loading import to_toml
from seed.config.schema import Config, ConfigError
from seed.process.plain_files import open_plain
from seed.run.lock import RunLock

log = logging.getLogger(__name__)

_FILES, _FOLDERS = ("config.toml", "metrics.jsonl"), ("tensorboard", "earlier")
METRICS = "metrics.jsonl"
# No line of a run is as long; what is longer is taken in pieces, and is no line of metrics.
_LONGEST_LINE_BYTES = 2**20


class RunFolder:
    """This process's hold on its run's folder. Thread-safe."""

    def __init__(self, config: Config, lock: RunLock) -> None:
        """Nothing is written yet; `lock` is of the folder that `config` names."""
        self._config = config
        self._lock = lock

    def hold(self) -> bool:
        """Sees to it that the folder is there and this process's own.

        Returns:
            Whether it was deleted or moved, and has been made anew with nothing in it but the
            configuration.

        Raises:
            RunTaken: where another learner works there by now.
            OSError: where that cannot be told.
        """
        if not self._lock.check():
            return False
        log.error("%s was deleted or moved; it is made anew", self._config.run_dir)
        try:
            self.write_config()
        except ConfigError as error:
            log.error("%s", error)
        return True

    def write_config(self) -> None:
        """Leaves `config.toml` there; raises ConfigError where that cannot be."""
        run_dir = Path(self._config.run_dir)
        # A later start from this file goes on with the run, whatever this one started from.
        text = to_toml(dataclasses.replace(self._config, resume="auto"))
        temporary = run_dir / ".config.toml.tmp"
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            # What somebody has put there may be a pipe, or a link to a file of theirs.
            temporary.unlink(missing_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(run_dir / "config.toml")
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise ConfigError(
                f"run_dir = {self._config.run_dir!r}: cannot be written ({error.strerror})"
            ) from error


def check_entries(run_dir: Path) -> None:
    """Refuses a folder where something else is in the place of a file or folder of the run.

    Raises:
        ConfigError: naming it.
    """
    for name in (*_FILES, *_FOLDERS):
        expected, is_it = ("file", stat.S_ISREG) if name in _FILES else ("folder", stat.S_ISDIR)
        try:
            mode = (run_dir / name).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _refusal(run_dir / name, f"cannot be looked at ({error.strerror})") from None
        if not is_it(mode):
            raise _refusal(run_dir / name, f"expected a {expected}, found something else")


def set_aside(run_dir: Path, env_frames: int | None) -> str:
    """Takes out of the run's figures what is no part of its past.

    Args:
        run_dir: The run's folder, whose lock this process holds.
        env_frames: Of the checkpoint of this run that it goes on from; None where it begins anew,
            or from the checkpoint of another run: then everything is of an earlier attempt.

    Returns:
        What was set aside and where, in one line; empty where there was nothing. On a full disk,
        that it stays where it is.

    Raises:
        ConfigError: where that cannot be done for another reason.
    """
    try:
        return _move_all(run_dir) if env_frames is None else _cut(run_dir, env_frames)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{run_dir}: figures of lost work stay among the run's own ({error.strerror})"
        raise _refusal(
            Path(error.filename or run_dir), f"cannot be set aside ({error.strerror})"
        ) from None


def _refusal(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: {why}; move it away, or choose another run_dir")


def _move_all(run_dir: Path) -> str:
    """Moves what an attempt without a checkpoint has left, with its configuration."""
    left = [name for name in (METRICS, "tensorboard") if os.path.lexists(run_dir / name)]
    if not left:
        return ""
    folder = _next_folder(run_dir)
    for name in left:
        os.rename(run_dir / name, folder / name)
    # The last: until then, the next start finds all that is left.
    if (run_dir / "config.toml").exists():
        os.rename(run_dir / "config.toml", folder / "config.toml")
    return f"what an earlier attempt has left is in {folder}"


def _cut(run_dir: Path, env_frames: int) -> str:
    """Moves lines of metrics from beyond these frames, and what is no line."""
    path = run_dir / METRICS
    if not path.exists() or not sum(_is_beyond(line, env_frames) for line in _lines(path)):
        return ""
    folder = _next_folder(run_dir)
    # Where the path is a link, it stays one.
    there = path.resolve()
    kept = there.with_name(f".{there.name}.tmp")
    try:
        count = _part(path, env_frames, kept, folder / METRICS)
        os.replace(kept, there)
    except OSError:
        # The disk may be full: what is half done gives its room back.
        for half in (kept, folder / METRICS):
            half.unlink(missing_ok=True)
        folder.rmdir()
        raise
    return (
        f"{count} lines of {METRICS} from after {env_frames:,} frames, which are played again, are "
        f"in {folder}"
    )


def _part(path: Path, env_frames: int, kept: Path, aside: Path) -> int:
    """Copies each line of a file into one of two new files; returns how many are set aside."""
    count = 0
    with kept.open("wb") as keeping, aside.open("xb") as beyond:
        for line in _lines(path):
            is_beyond = _is_beyond(line, env_frames)
            count += is_beyond
            (beyond if is_beyond else keeping).write(line)
        for file in (beyond, keeping):
            file.flush()
            os.fsync(file.fileno())
    return count


def _lines(path: Path) -> Iterator[bytes]:
    with BufferedReader(open_plain(path)) as file:
        while line := file.readline(_LONGEST_LINE_BYTES):
            yield line


def _is_beyond(line: bytes, env_frames: int) -> bool:
    """Whether a line is of later frames, or none that could be read."""
    try:
        frames = json.loads(line)["env_frames"]
        return not line.endswith(b"\n") or not frames <= env_frames
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def _next_folder(run_dir: Path) -> Path:
    """A new folder whose number is higher than all before."""
    earlier = run_dir / "earlier"
    earlier.mkdir(exist_ok=True)
    numbers = [int(name) for name in os.listdir(earlier) if name.isdecimal() and len(name) < 10]
    folder = earlier / str(max(numbers, default=0) + 1)
    folder.mkdir()
    return folder
