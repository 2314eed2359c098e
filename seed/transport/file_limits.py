"""How many files the process may have open: every connection is one.

At the limit libzmq fails to accept a connection, and tries again at once, and again: a core spins,
the environment server waits without a word, and the next checkpoint cannot open its files. So the
limit is raised as far as it goes, looked at before there is a run, and kept at a distance: near it
nobody else is let in until there is room again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import resource
import socket
import struct
from pathlib import Path

from seed.config.schema import ConfigError
from seed.process.rates import RateLimit

log = logging.getLogger(__name__)

# More than any fleet needs; some programs take long to start under a limit of a billion.
_WANTED = 65_536
_FEWEST = 256
# Libraries, logs, metrics, and the files of a checkpoint.
_OWN = 64
# Its connection, and a pipe for what it prints.
_PER_SERVER = 2
_OPEN_FILES = Path("/proc/self/fd")
_LOG_INTERVAL_S = 60.0
_FAR_CHECK_S, _NEAR_CHECK_S = 1.0, 0.2
_TCP = (socket.AF_INET, socket.AF_INET6)
# From Linux's asm-generic/socket.h, and linux/filter.h: one instruction, BPF_RET | BPF_K, 0.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))


def raise_limit(servers: int) -> int:
    """Raises the limit of open files as far as it may go; returns it.

    Args:
        servers: Environment servers that the process starts itself.

    Raises:
        ConfigError: where that is too low to run with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    limit = _WANTED if soft == resource.RLIM_INFINITY else soft
    least = max(_FEWEST, _OWN + _PER_SERVER * servers)
    if limit < least:
        raise ConfigError(
            f"open files: this process may have {limit}, expected at least {least}; raise the "
            f"limit, with `ulimit -n {least}` or LimitNOFILE= of its service"
        )
    return limit


def connections_within(limit: int) -> int:
    """Environment servers that can be connected at a time under this limit of open files."""
    return limit - _OWN


def count_open_files() -> int:
    """Files that this process has open, by /proc; where none is left to look with, the limit."""
    try:
        return len(os.listdir(_OPEN_FILES))
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Listener:
    """Lets no connection in while the process has few files left to open. Linux and TCP only.

    Connections that stand go on: to unbind the socket would end all of them. A filter in the kernel
    drops what would open another one, so that an environment server finds nobody answering, says so
    and tries again, as if the learner were not there yet.

    Owned by the thread that owns the socket.
    """

    def __init__(self, endpoint: str) -> None:
        """A socket of this process is bound there: tcp://HOST:PORT, or any other address."""
        self._endpoint = endpoint
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._listening_socket = _find_listening(endpoint)
        self._next_check_s = -math.inf
        self._log_limit = RateLimit(_LOG_INTERVAL_S)
        self.closed = False

    def check(self, now_s: float) -> None:
        """Closes or opens; cheap enough to be called a few hundred times a second."""
        if self._listening_socket is None or now_s < self._next_check_s:
            return
        count = count_open_files()
        left = self._limit - count
        # Looking takes longer with more of them, and is of no use while there are few.
        self._next_check_s = now_s + (_NEAR_CHECK_S if left < self._limit / 2 else _FAR_CHECK_S)
        # More may have come by the next time, or wait to be accepted already.
        if not self.closed and left < self._limit / 4:
            self._set(_SO_ATTACH_FILTER, _drop_all())
            self.closed = True
        elif self.closed and left > self._limit / 3:
            self._set(_SO_DETACH_FILTER, 0)
            self.closed = False
            log.info("%s: environment servers can connect again", self._endpoint)
        if self.closed and self._log_limit.take(now_s):
            log.error(
                "%s: no more environment servers can connect, as %d files are open of the %d that "
                "`ulimit -n` allows; raise it, or start fewer servers",
                self._endpoint, count, self._limit,
            )  # fmt: skip

    def _set(self, option: int, value: int | bytes) -> None:
        assert self._listening_socket is not None
        try:
            self._listening_socket.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as error:
            # A sandbox's kernel may have none. The log still says what is going on.
            log.warning("%s: the system does not filter connections (%s)", self._endpoint, error)

    def close(self) -> None:
        """Lets go of the socket."""
        if self._listening_socket is not None:
            self._listening_socket.close()


def _find_listening(endpoint: str) -> socket.socket | None:
    """This process's socket that listens at the endpoint, as another handle; None for no TCP."""
    port = endpoint.rpartition(":")[2]
    if not (endpoint.startswith("tcp://") and port.isdigit() and _OPEN_FILES.exists()):
        return None
    for name in os.listdir(_OPEN_FILES):
        # Some are gone by now: that of the listing itself, for one.
        with contextlib.suppress(OSError):
            if not os.readlink(_OPEN_FILES / name).startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
            listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and found.family in _TCP and found.getsockname()[1] == int(port):
                return found
            found.close()
    return None


def _drop_all() -> bytes:
    """The kernel's `struct sock_fprog` for a program that takes no byte of any packet."""
    return struct.pack("HP", 1, ctypes.addressof(_RETURN_NOTHING))
