"""One learner at a time in a run's folder: two would delete each other's unfinished checkpoints.

The lock is on a file, and files can be taken away: the folder may be deleted, moved, or put in
place from a copy while a learner works there, and the next one would find another file to lock. So
whoever holds a lock looks again and again whether it is still that of the file at the run's path.

Two runs may have one folder of checkpoints, through a link. So that folder is locked, too, as soon
as there is one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from seed.config.schema import ConfigError
from seed.process.plain_files import is_at

log = logging.getLogger(__name__)

# Whoever starts a run again may do so while its last process is still writing a checkpoint.
_PATIENCE_S = 120.0
_RETRY_S = 0.2
# What file systems without locks answer: NFS without its lock service, others, Lustre.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# Times in a row that others may take the folder away while it is made and locked.
_MOST_RACES = 100


class RunTaken(ConfigError):
    """Another learner works in the run's folder, which changed while this one worked there."""


class RunLock:
    """The lock of a run's folder. Thread-safe once it is made."""

    def __init__(self, run_dir: Path) -> None:
        """Waits up to two minutes for another learner that has it.

        Raises:
            ConfigError: where another learner keeps the lock, or the folder cannot be written.
        """
        self._run_dir = run_dir
        self._path = run_dir / "lock"
        # Folders that were not there before, outermost first.
        self._made: list[Path] = []
        self._made_file = False
        self._changing = threading.Lock()
        # Of the folder of checkpoints.
        self._checkpoints: int | None = None
        try:
            self._descriptor = self._wait()
        except ConfigError:
            self._remove_folders()
            raise

    def accept(self) -> None:
        """The run takes place: what was made for it stays."""
        self._made, self._made_file = [], False

    def check(self) -> bool:
        """Sees to it that the lock is that of the file at the run's path; locks that one if not.

        The same with the folder of checkpoints, where there is one.

        Returns:
            Whether it had to: the folder was deleted or moved, and is there again now.

        Raises:
            RunTaken: where another learner has the lock of what is there now.
            OSError: where that cannot be seen or done; nothing may be written meanwhile.
        """
        with self._changing:
            if is_at(self._descriptor, self._path):
                self.hold_checkpoints()
                return False
            descriptor = self._try()
            if descriptor is None:
                raise RunTaken(
                    f"run_dir = {str(self._run_dir)!r}: its folder was deleted or moved while "
                    "this learner worked there, and another learner works there now; this one "
                    "ends without a checkpoint, so that they do not write over each other's"
                )
            os.close(self._descriptor)
            self._descriptor = descriptor
            self.accept()
            self.hold_checkpoints()
            return True

    def hold_checkpoints(self) -> None:
        """Locks the folder of checkpoints that is there now, where the file system locks folders.

        Raises:
            RunTaken: where a learner of another run has it.
        """
        folder = self._run_dir / "checkpoints"
        with contextlib.suppress(OSError):
            if self._checkpoints is not None and is_at(self._checkpoints, folder):
                return
            self._let_checkpoints_go()
            self._checkpoints = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(self._checkpoints, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._let_checkpoints_go()
                raise RunTaken(
                    f"run_dir = {str(self._run_dir)!r}: the learner of another run works in its "
                    "folder of checkpoints, which both have through a link; choose another "
                    "run_dir, or have the link lead to a folder of its own"
                ) from None

    def _let_checkpoints_go(self) -> None:
        if self._checkpoints is not None:
            os.close(self._checkpoints)
            self._checkpoints = None

    def release(self) -> None:
        """Gives the lock back. Where the run was not accepted, what was made for it goes."""
        # While it is held: whoever waits for this file sees then that it is no longer there.
        with contextlib.suppress(OSError):
            if self._made_file and is_at(self._descriptor, self._path):
                self._path.unlink()
        self._remove_folders()
        self._let_checkpoints_go()
        os.close(self._descriptor)

    def _remove_folders(self) -> None:
        for folder in reversed(self._made):
            # Others may have put something there.
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _wait(self) -> int:
        deadline_s = time.monotonic() + _PATIENCE_S
        said = False
        while (descriptor := self._try_first()) is None:
            if time.monotonic() >= deadline_s:
                raise ConfigError(
                    f"run_dir = {str(self._run_dir)!r}: another learner still works there after "
                    f"{_PATIENCE_S:g} s; stop it, or choose another run_dir"
                )
            if not said:
                log.warning("another learner works in %s; waiting for it to end", self._run_dir)
                said = True
            time.sleep(_RETRY_S)
        return descriptor

    def _try_first(self) -> int | None:
        try:
            return self._try()
        except OSError as error:
            raise ConfigError(f"run_dir = {str(self._run_dir)!r}: {_why_not(error)}") from error

    def _try(self) -> int | None:
        """The descriptor that has the lock; None where another learner has it."""
        for attempt in range(1, _MOST_RACES + 1):
            try:
                self._make_folders()
                descriptor = self._open()
            except (FileNotFoundError, FileExistsError):
                # Taken away by a learner that was refused, or for good in the way.
                if attempt == _MOST_RACES:
                    raise
                continue
            if not _lock(descriptor, self._run_dir):
                os.close(descriptor)
                return None
            if is_at(descriptor, self._path):
                return descriptor
            os.close(descriptor)
        raise _NotLocked(errno.ESTALE, "its file vanishes again and again")

    def _make_folders(self) -> None:
        missing = []
        for folder in (self._run_dir, *self._run_dir.parents):
            if folder.exists():
                break
            missing.append(folder)
        for folder in reversed(missing):
            folder.mkdir()
            self._made.append(folder)

    def _open(self) -> int:
        # Processes that this one starts do not inherit it: they would keep the lock when it dies.
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._made_file = True
            return descriptor
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)


class _NotLocked(OSError):
    """The file system has locks, and refuses this one."""


def _why_not(error: OSError) -> str:
    if isinstance(error, _NotLocked):
        return f"cannot be locked ({error.strerror})"
    if isinstance(error, FileExistsError):
        return "cannot be made: in its place, or in that of a parent, is a link that leads nowhere"
    return f"cannot be written ({error.strerror})"


@contextlib.contextmanager
def hold_run(run_dir: Path) -> Iterator[RunLock]:
    """Holds the lock of the run's folder, which is made where it is missing.

    However the process ends, the system gives the lock back. Where the file system has no locks,
    it warns and goes on without. A folder that was made for a run that is not accepted goes again.

    Raises:
        ConfigError: where another learner keeps the lock, or the folder cannot be written.
    """
    lock = RunLock(run_dir)
    try:
        lock.hold_checkpoints()
        yield lock
    finally:
        lock.release()


def _lock(descriptor: int, run_dir: Path) -> bool:
    """Whether the lock could be had; closes the descriptor where the system refuses it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise _NotLocked(error.errno, error.strerror) from None
        log.warning(
            "%s cannot be locked (%s); see to it that no other learner works there",
            run_dir, error.strerror,
        )  # fmt: skip
    return True
