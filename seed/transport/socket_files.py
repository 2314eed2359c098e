"""The file of an ipc:// address: one learner's at a time.

ZeroMQ would remove whatever is at the path and take its place. Here only a socket at which nobody
listens any more makes way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator

from seed.config.schema import ConfigError
from seed.process.rates import RateLimit
from seed.wire import ipc
from seed.wire.ipc import path_of

log = logging.getLogger(__name__)

_BACKLOG = 4_096
_PATIENCE_S = 5.0
_RETRY_S = 0.02
_LOG_INTERVAL_S = 60.0
# That this process has made, for "ipc://*".
_own_folders: set[str] = set()
_REMEDIES = {
    errno.ENOENT: "; make its folder, or choose another path",
    errno.EACCES: "; choose a path in a folder of your own",
    errno.EPERM: "; choose a path in a folder of your own",
    errno.EADDRINUSE: "; another learner listens there: stop it, or choose another path",
}


def settle(address: str) -> str:
    """The address that another process would give to mean the same: with a path that is absolute.

    For "ipc://*" it makes a folder that only this user can enter.

    Raises:
        ConfigError: where there is no room for that folder.
    """
    if address != ipc.ANY:
        return ipc.absolute(address)
    try:
        folder = tempfile.mkdtemp(prefix="seed-rl-")
    except OSError as error:
        raise ConfigError(
            f"inference.address = {address!r}: no folder can be made for it ({error.strerror}); "
            "give a path"
        ) from None
    _own_folders.add(folder)
    return f"ipc://{folder}/socket"


def listen(address: str) -> int | None:
    """A listening socket at the path of an ipc:// address, as a descriptor that ZeroMQ may have.

    None for other addresses, of which the system sees to it that only one process has them.

    Raises:
        ConfigError: where somebody listens there already, or nobody can.
    """
    path = path_of(address)
    if path is None:
        return None
    try:
        if path.startswith("@"):
            return _listen_at("\0" + path[1:])
        with _only_one_in(os.path.dirname(path) or "."):
            _make_way(path)
            return _listen_at(path)
    except OSError as error:
        reason = f"cannot be bound ({error.strerror}){_REMEDIES.get(error.errno or 0, '')}"
        raise ConfigError(f"inference.address = {address!r}: {reason}") from None


class SocketFile:
    """The file of a socket of this process, for as long as it is there. Of one thread."""

    def __init__(self, endpoint: str) -> None:
        """A socket of this process is bound there: ipc://PATH, or any other address."""
        self._path = path_of(endpoint)
        if self._path is not None and self._path.startswith("@"):
            self._path = None
        self._file = self._look()
        self._log_limit = RateLimit(_LOG_INTERVAL_S)

    def check(self, now_s: float) -> None:
        """Logs, once a minute at most, that the file was removed or replaced."""
        if self._look() != self._file and self._log_limit.take(now_s):
            log.error(
                "ipc://%s: its file was removed or replaced, so that no more environment servers "
                "can connect; start the learner again", self._path,
            )  # fmt: skip

    def remove(self) -> None:
        """Removes the file, unless it is another's by now, and the folder that `settle` made."""
        if self._path is None or self._file is None:
            return
        # Where that fails the file stays, and the next learner removes it.
        with contextlib.suppress(OSError), _only_one_in(os.path.dirname(self._path) or "."):
            if self._look() == self._file:
                os.unlink(self._path)
        folder = os.path.dirname(self._path)
        if folder in _own_folders:
            _own_folders.remove(folder)
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def _look(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            stats = os.lstat(self._path)
        except OSError:
            return None
        return stats.st_dev, stats.st_ino


def _listen_at(name: str) -> int:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen(_BACKLOG)
        return listening.detach()


def _make_way(path: str) -> None:
    """Removes the socket of a process that has gone.

    Raises:
        OSError: where there is anything else.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "something that is no socket is there; choose another path")
    if _is_alive(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _is_alive(path: str) -> bool:
    """Whether a process listens at the path; raises OSError where that cannot be known."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            # More wait to be let in than it takes at a time.
            return True
    return True


@contextlib.contextmanager
def _only_one_in(folder: str) -> Iterator[None]:
    """Keeps other learners from looking at the folder's sockets and replacing them meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    deadline_s = time.monotonic() + _PATIENCE_S
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline_s:
                raise OSError(errno.EAGAIN, "another process has locked the folder")
            time.sleep(_RETRY_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks: all but two starts in the same moment are told apart still.
        return True
    return True
