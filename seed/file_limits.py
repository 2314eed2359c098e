"""How many files the process may have open: every connection is one.

At the limit libzmq fails to accept a connection, and tries again at once, and again: a core spins,
the environment server waits without a word, and the next checkpoint cannot open its files. So the
limit is raised as far as it goes, looked at before there is a run, and kept at a distance: near it
the listener is closed until there is room again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import resource
import time
from pathlib import Path

import zmq

from seed.config import ConfigError

log = logging.getLogger(__name__)

# More than any fleet needs; some programs take long to start under a limit of a billion.
_WANTED = 65_536
_FEWEST = 256
# Libraries, logs, metrics, and the files of a checkpoint.
_OWN = 64
_OPEN_FILES = Path("/proc/self/fd")
_LOG_INTERVAL_S = 60.0


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
    least = max(_FEWEST, _OWN + servers)
    if limit < least:
        raise ConfigError(
            f"open files: this process may have {limit}, expected at least {least}; raise the "
            f"limit, with `ulimit -n {least}` or LimitNOFILE= of its service"
        )
    return limit


def connections_within(limit: int) -> int:
    """Environment servers that can be connected at a time under this limit of open files."""
    return limit - _OWN


def count_open_files() -> int | None:
    """Files that this process has open; None where the system does not say.

    Where there is none left to look with, that is as many as there may be.
    """
    try:
        return len(os.listdir(_OPEN_FILES))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return None


class Listener:
    """Closes a socket's listener while the process has hardly any file left to open.

    Connections that stand are not touched. Environment servers that come meanwhile find nobody
    listening; they say so and try again, as if the learner were not there yet.

    Owned by the thread that owns the socket.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        limit: int | None = None,
    ) -> None:
        """The socket is bound already, to one address.

        Args:
            socket: Whose listener it is.
            limit: Open files at most; without it the process's limit.
        """
        self._socket = socket
        self._endpoint = socket.get_string(zmq.LAST_ENDPOINT)
        self._limit = limit or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._next_log_s = -math.inf
        self.listening = True

    def check(self) -> None:
        """Closes or opens the listener; to be called about once a second."""
        count = count_open_files()
        if count is None:
            return
        left = self._limit - count
        if self.listening and left < _OWN // 2:
            self._socket.unbind(self._endpoint)
            self.listening = False
        elif not self.listening and left >= _OWN:
            self._open()
        if not self.listening and time.monotonic() >= self._next_log_s:
            self._next_log_s = time.monotonic() + _LOG_INTERVAL_S
            log.error(
                "%d of %d files are open: no more environment servers can connect to %s; raise "
                "`ulimit -n`, or start fewer",
                count, self._limit, self._endpoint,
            )  # fmt: skip

    def _open(self) -> None:
        try:
            self._socket.bind(self._endpoint)
        except zmq.ZMQError as error:
            log.warning("%s: cannot listen again yet (%s)", self._endpoint, error)
            return
        self.listening = True
        log.info("listening on %s again", self._endpoint)
