"""One learner at a time in a run's folder: two would delete each other's unfinished checkpoints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from seed.config import ConfigError

log = logging.getLogger(__name__)

# Whoever starts a run again may do so while its last process is still writing a checkpoint.
_PATIENCE_S = 120.0
_RETRY_S = 0.2
# What file systems without locks answer: NFS without its lock service, others, Lustre.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Holds the lock of the run's folder, which is made where it is missing.

    Waits up to two minutes for another learner that has it. However the process ends, the system
    gives the lock back. Where the file system has no locks, it warns and goes on without.

    Raises:
        ConfigError: where another learner keeps the lock, or the folder cannot be written.
    """
    descriptor = _wait_for_lock(run_dir)
    try:
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(run_dir: Path) -> int:
    deadline_s = time.monotonic() + _PATIENCE_S
    said = False
    while (descriptor := _try_lock(run_dir)) is None:
        if time.monotonic() >= deadline_s:
            raise ConfigError(
                f"run_dir = {str(run_dir)!r}: another learner still works there after "
                f"{_PATIENCE_S:g} s; stop it, or choose another run_dir"
            )
        if not said:
            log.warning("another learner works in %s; waiting for it to end", run_dir)
            said = True
        time.sleep(_RETRY_S)
    return descriptor


def _try_lock(run_dir: Path) -> int | None:
    """The descriptor that has the lock; None where another learner has it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # Opened anew each time, as the folder may have been deleted and made again. Processes
        # that this one starts do not inherit it: they would keep the lock when it dies.
        descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(
            f"run_dir = {str(run_dir)!r}: cannot be written ({error.strerror})"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise ConfigError(
                f"run_dir = {str(run_dir)!r}: cannot be locked ({error.strerror})"
            ) from None
        log.warning(
            "%s cannot be locked (%s); see to it that no other learner works there",
            run_dir, error.strerror,
        )  # fmt: skip
    return descriptor
