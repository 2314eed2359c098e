"""Environment servers on the learner's own machine: started with it, restarted, gone with it."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seed.config import Config, ConfigError, LocalConfig
from seed.cores import usable_cores
from seed.module_folders import python_command
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

# Before each restart after failures in a row that came quickly; after one more there is none. No
# jitter as in `envservers.recovery`, which must not be imported here: they are few, on one machine.
_DELAYS_S = (0.0, 1.0, 2.0, 4.0)
_QUICK_S = 30.0
_NICENESS = 10
# How long nobody may be connected once no local server is left: others may be about to come back.
_NOBODY_S = 10.0
# How long somebody must be connected to show that environments can be made here.
_PROVEN_S = 10.0
_LAST_WORDS_BYTES, _LONGEST_WORDS = 65_536, 500
_EXIT_GIVEN_UP, _EXIT_REFUSED = 1, 2


class LocalServerError(Exception):
    """Local environment servers that cannot be run; their own output says why."""


def server_count(config: Config) -> int:
    """Processes to start; raises ConfigError where they have more environments than may connect."""
    each, most = config.local.envs_per_server, config.inference.max_envs
    if config.local_envservers == "auto":
        count = max(1, min(usable_cores(), most // each))
    else:
        count = config.local_envservers
    if count * each > most:
        raise ConfigError(
            f"local_envservers = {count} with local.envs_per_server = {each}: expected at most "
            f"inference.max_envs = {most} environments in all"
        )
    return count


def server_command(
    config: LocalConfig,
    endpoint: str,
    key_files: Sequence[int] = (),
    module_folders: Sequence[str] = (),
) -> list[str]:
    """The command line of one local environment server; its keys come as open files."""
    options = zip(("--key", "--learner-key"), key_files, strict=False)
    return [
        *python_command("envservers.main", module_folders), "--connect", endpoint, "--once",
        "--num-envs", str(config.envs_per_server), "--groups", str(config.groups_per_server),
        "--step-timeout-s", str(config.step_timeout_s),
        *(word for option, file in options for word in (option, f"/dev/fd/{file}")),
    ]  # fmt: skip


def _yield_to_learner(pid: int) -> None:
    """Lets a process have the cores that the learner leaves, on systems that know how.

    The learner has few threads with much to do. Environment servers that compete with them run
    ahead until their rows have nowhere to go, and then leave cores idle.
    """
    if hasattr(os, "setpriority"):
        # It may have come to its end already.
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, min(os.nice(0) + _NICENESS, 19))


@dataclass
class _Server:
    # None where it is to be started at `due_s`. All times are of time.monotonic().
    process: subprocess.Popen[bytes] | None = None
    due_s: float = 0.0
    started_s: float = 0.0
    quick_failures: int = 0
    given_up: bool = False


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
        self._servers = [_Server() for _ in range(count)]
        for server in self._servers:
            self._start(server)
        # time.monotonic() at which a server was last there, be it a local one or another, and at
        # which nobody was last connected.
        self._somebody_s = self._nobody_s = time.monotonic()
        self._proven = False

    def _start(self, server: _Server) -> None:
        """Starts it, or sees to it that this is tried again."""
        server.started_s = time.monotonic()
        try:
            server.process = self._popen()
        except OSError as error:
            # The system has no process, no memory or no open file left for now.
            self._fail(server, f"a local environment server cannot be started: {error}")
        else:
            _yield_to_learner(server.process.pid)

    def _popen(self) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._log_file.open("ab")) if self._log_file else None
            # A process group of its own: Ctrl-C reaches the learner, which says goodbye to its
            # servers. But of the same session, as Linux may weigh priorities within one only.
            return subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, process_group=0, pass_fds=self._key_files,
            )  # fmt: skip

    def check(self, *, connected: bool) -> None:
        """Restarts servers that ended, later each time they end quickly, up to a limit.

        Args:
            connected: Whether any environment is connected, of whatever server.

        Raises:
            LocalServerError: for a server that refuses the environment, unless environments have
                been seen to run; and where no server is left and nothing has been connected for a
                while.
        """
        now_s = time.monotonic()
        if not connected:
            self._nobody_s = now_s
        self._proven = self._proven or now_s - self._nobody_s >= _PROVEN_S
        for server in self._servers:
            self._attend(server)
        if connected or not self._servers or not all(server.given_up for server in self._servers):
            self._somebody_s = now_s
        elif now_s - self._somebody_s >= _NOBODY_S:
            raise LocalServerError(
                f"no local environment server is left, and no other one is connected: "
                f"{self._last_words()}"
            )

    def _attend(self, server: _Server) -> None:
        """Does what is to be done about a server that has ended, or is to be started."""
        if server.given_up:
            return
        status = None if server.process is None else server.process.poll()
        if status is not None:
            ended = f"a local environment server ended with exit code {status}"
            if status == _EXIT_REFUSED and not self._proven:
                raise LocalServerError(f"{ended}: {self._last_words()}")
            self._fail(server, ended, for_good=status in (_EXIT_GIVEN_UP, _EXIT_REFUSED))
        waits = server.process is None and not server.given_up
        if waits and time.monotonic() >= server.due_s:
            self._start(server)

    def _fail(self, server: _Server, what: str, *, for_good: bool = False) -> None:
        """Decides when a server that has ended, or cannot be started, is started again."""
        now_s = time.monotonic()
        quick = now_s - server.started_s < _QUICK_S
        server.quick_failures = server.quick_failures + 1 if quick else 1
        server.process = None
        server.given_up = for_good or server.quick_failures > len(_DELAYS_S)
        if server.given_up:
            log.warning("%s and is not started again: %s", what, self._last_words())
            return
        delay_s = _DELAYS_S[server.quick_failures - 1]
        server.due_s = now_s + delay_s
        log.warning("%s; restarting%s", what, f" in {delay_s:g} s" if delay_s else "")

    def _last_words(self) -> str:
        """The last line that a server has printed, and where the others are."""
        if self._log_file is None:
            return "its reason is above"
        try:
            lines = _tail(self._log_file).split("\n")
        except OSError as error:
            return f"{self._log_file} cannot be read: {error.strerror}"
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        last = printable(last.removeprefix("seed-envserver: ")[:_LONGEST_WORDS])
        return f"{last} (more in {self._log_file})"

    def stop(self, timeout_s: float) -> None:
        """Waits for the servers to leave by themselves, then ends those that have not."""
        self._wait(timeout_s)
        for process in self._processes():
            process.terminate()
        self._wait(timeout_s)
        for process in self._processes():
            process.kill()
            process.wait()

    def _processes(self) -> list[subprocess.Popen[bytes]]:
        return [server.process for server in self._servers if server.process is not None]

    def _wait(self, timeout_s: float) -> None:
        """Waits until all have ended, or for so long."""
        deadline_s = time.monotonic() + timeout_s
        for process in self._processes():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline_s - time.monotonic()))


def _tail(file: Path) -> str:
    """The end of a text that may be large, by now."""
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        return opened.read(_LAST_WORDS_BYTES).decode(errors="replace")
