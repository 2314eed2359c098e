"""Environment servers on the learner's own machine: started with it, restarted, gone with it."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seed.config import Config, ConfigError, LocalConfig

log = logging.getLogger(__name__)

_MAX_QUICK_FAILURES = 5
_QUICK_S = 30.0
_NICENESS = 10
# How long nobody may be connected once no local server is left: others may be about to come back.
_NOBODY_S = 10.0
_EXIT_GIVEN_UP, _EXIT_REFUSED = 1, 2


class LocalServerError(Exception):
    """Local environment servers that cannot be run; their own output says why."""


def server_count(config: Config) -> int:
    """Processes to start; raises ConfigError where they have more environments than may connect."""
    each, most = config.local.envs_per_server, config.inference.max_envs
    if config.local_envservers == "auto":
        count = max(1, min(_usable_cores(), most // each))
    else:
        count = config.local_envservers
    if count * each > most:
        raise ConfigError(
            f"local_envservers = {count} with local.envs_per_server = {each}: expected at most "
            f"inference.max_envs = {most} environments in all"
        )
    return count


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def server_command(
    config: LocalConfig, endpoint: str, key_files: Sequence[int] = ()
) -> list[str]:
    """The command line of one local environment server; its keys come as open files."""
    options = zip(("--key", "--learner-key"), key_files, strict=False)
    return [
        sys.executable, "-m", "envservers.main", "--connect", endpoint, "--once",
        "--num-envs", str(config.envs_per_server), "--groups", str(config.groups_per_server),
        *(word for option, file in options for word in (option, f"/dev/fd/{file}")),
    ]  # fmt: skip


def _yield_to_learner(pid: int) -> None:
    """Lets a process have the cores that the learner leaves, on systems that know how.

    The learner has few threads with much to do. Environment servers that compete with them run
    ahead until their rows have nowhere to go, and then leave cores idle.
    """
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, pid, min(os.nice(0) + _NICENESS, 19))


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    started_s: float
    quick_failures: int = field(default=0)
    given_up: bool = field(default=False)


class LocalServers:
    """A fixed number of processes. Owned by the main thread."""

    def __init__(
        self,
        command: list[str],
        count: int,
        log_file: Path | None = None,
        key_files: Sequence[int] = (),
    ) -> None:
        """Starts them; what they print goes to the file, or where this process's output goes.

        They inherit the open files `key_files`.
        """
        self._key_files = key_files
        self._log_file = log_file
        self._command = command
        # One thread for numerical libraries: the environments of all servers share the cores.
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._servers = [_Server(self._start(), time.monotonic()) for _ in range(count)]
        # time.monotonic() at which a server was last there, be it a local one or another.
        self._somebody_s = time.monotonic()

    def _start(self) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._log_file.open("ab")) if self._log_file else None
            # A process group of its own: Ctrl-C reaches the learner, which says goodbye to its
            # servers. But of the same session, as Linux may weigh priorities within one only.
            process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, process_group=0, pass_fds=self._key_files,
            )  # fmt: skip
        _yield_to_learner(process.pid)
        return process

    def check(self, *, connected: bool) -> None:
        """Restarts servers that ended, except those of which nothing can be expected any more.

        Args:
            connected: Whether any environment is connected, of whatever server.

        Raises:
            LocalServerError: for a server that cannot be run, and where none is left and nothing
                has been connected for a while.
        """
        for server in self._servers:
            status = None if server.given_up else server.process.poll()
            if status is not None:
                self._follow(server, status)
        now_s = time.monotonic()
        if connected or not self._servers or not all(server.given_up for server in self._servers):
            self._somebody_s = now_s
        elif now_s - self._somebody_s >= _NOBODY_S:
            raise LocalServerError(
                f"no local environment server is left, and no other one is connected: "
                f"{self._last_words()}"
            )

    def _follow(self, server: _Server, status: int) -> None:
        """Does what is to be done about a server that has ended."""
        quick = time.monotonic() - server.started_s < _QUICK_S
        server.quick_failures = server.quick_failures + 1 if quick else 1
        ended = f"a local environment server ended with exit code {status}"
        if status == _EXIT_REFUSED:
            raise LocalServerError(f"{ended}: {self._last_words()}")
        server.given_up = (
            status == _EXIT_GIVEN_UP or server.quick_failures >= _MAX_QUICK_FAILURES
        )
        if server.given_up:
            log.warning("%s and is not started again: %s", ended, self._last_words())
        else:
            log.warning("%s; restarting", ended)
            server.process, server.started_s = self._start(), time.monotonic()

    def _last_words(self) -> str:
        """The last line that a server has printed, and where the others are."""
        if self._log_file is None:
            return "its reason is above"
        lines = self._log_file.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{last.removeprefix('seed-envserver: ')} (more in {self._log_file})"

    def stop(self, timeout_s: float) -> None:
        """Waits for the servers to leave by themselves, then ends those that have not."""
        self._wait(timeout_s)
        for server in self._servers:
            server.process.terminate()
        self._wait(timeout_s)
        for server in self._servers:
            server.process.kill()
            server.process.wait()

    def _wait(self, timeout_s: float) -> None:
        """Waits until all have ended, or for so long."""
        deadline_s = time.monotonic() + timeout_s
        for server in self._servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(max(0.0, deadline_s - time.monotonic()))
