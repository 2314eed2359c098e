"""Environment servers on the learner's own machine: started with it, restarted, gone with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seed.config.schema import Config, ConfigError, LocalConfig
from seed.process.cores import usable_cores
from seed.process.exit_codes import CommandError
from seed.process.module_folders import python_command
from seed.run.server_log import BoundedLog, ServerOutput
from seed.wire.limits import STARTER_VARIABLE

log = logging.getLogger(__name__)

# Before each restart after failures in a row that came quickly; after one more there is none. No
# jitter as in `envservers.supervision.recovery`, which must not be imported here: they are few, on
# one machine.
_DELAYS_S = (0.0, 1.0, 2.0, 4.0)
_QUICK_S = 30.0
_NICENESS = 10
# How long nobody may be connected once no local server is left: others may be about to come back.
_NOBODY_S = 10.0
# How long somebody must be connected to show that environments can be made here.
_PROVEN_S = 10.0
_EXIT_GIVEN_UP, _EXIT_REFUSED = 1, 2
_STDERR = 2
# The process runs no environment: it does not end this way but by somebody outside.
_KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What is read of all servers' output at a time, several times a second. A server that has more to
# say drops it, and says so: to print much must not take the learner's time.
_READ_BYTES = 65_536
_WAIT_INTERVAL_S = 0.01
# How long what a killed server has started may take to end.
_END_PATIENCE_S = 2.0


class LocalServerError(CommandError):
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
    # Of the newest process; None where there is no log.
    output: ServerOutput | None = None
    due_s: float = 0.0
    started_s: float = 0.0
    # Quick ends in a row, and those of them that nobody outside has caused.
    quick_ends: int = 0
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
        """Starts them; what they print goes to the file, or to this process's standard error.

        They inherit the open files `key_files`.
        """
        self._key_files = key_files
        self._log_file = log_file
        self._log = BoundedLog(log_file) if log_file is not None else None
        self._command = command
        self._environment = {
            **os.environ,
            # For numerical libraries: the environments of all servers share the cores.
            "OMP_NUM_THREADS": "1",
            STARTER_VARIABLE: str(os.getpid()),
        }
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
        output: ServerOutput | None = None
        try:
            output = ServerOutput(self._log) if self._log is not None else None
            server.process = self._popen(output)
        except OSError as error:
            # The system has no process, no memory or no open file left for now.
            self._fail(server, f"a local environment server cannot be started: {error}")
        else:
            _yield_to_learner(server.process.pid)
        if output is not None:
            output.release_writer()
            server.output = output

    def _popen(self, output: ServerOutput | None) -> subprocess.Popen[bytes]:
        # Not this process's standard output: that is for results.
        file = output.writer if output is not None else _STDERR
        # A process group of its own: Ctrl-C reaches the learner, which says goodbye to its
        # servers. But of the same session, as Linux may weigh priorities within one only.
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, process_group=0, pass_fds=self._key_files,
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
        self._read()
        for server in self._servers:
            self._attend(server)
        if connected or not self._servers or not all(server.given_up for server in self._servers):
            self._somebody_s = now_s
        elif now_s - self._somebody_s >= _NOBODY_S:
            raise LocalServerError(
                f"no local environment server is left, and no other one is connected: "
                f"{self._last_words(max(self._servers, key=lambda server: server.started_s))}"
            )

    def _attend(self, server: _Server) -> None:
        """Does what is to be done about a server that has ended, or is to be started."""
        if server.given_up:
            return
        status = None if server.process is None else server.process.poll()
        if status is not None:
            if server.output is not None:
                server.output.finish()
            ended = f"a local environment server {_end(status)}"
            if status == _EXIT_REFUSED and not self._proven:
                raise LocalServerError(f"{ended}: {self._last_words(server)}")
            if -status in _KILLS:
                self._postpone(server, ended)
            else:
                self._fail(server, ended, for_good=status in (_EXIT_GIVEN_UP, _EXIT_REFUSED))
        waits = server.process is None and not server.given_up
        if waits and time.monotonic() >= server.due_s:
            self._start(server)

    def _fail(self, server: _Server, what: str, *, for_good: bool = False) -> None:
        """Decides whether a server that has failed, or cannot be started, is started again."""
        quick = time.monotonic() - server.started_s < _QUICK_S
        server.quick_failures = server.quick_failures + 1 if quick else 1
        server.given_up = for_good or server.quick_failures > len(_DELAYS_S)
        if server.given_up:
            server.process = None
            log.warning("%s and is not started again: %s", what, self._last_words(server))
        else:
            self._postpone(server, what)

    def _postpone(self, server: _Server, what: str) -> None:
        """Has a server started again, later each time that it ends quickly."""
        now_s = time.monotonic()
        quick = now_s - server.started_s < _QUICK_S
        server.process = None
        server.quick_ends = server.quick_ends + 1 if quick else 1
        delay_s = _DELAYS_S[min(server.quick_ends, len(_DELAYS_S)) - 1]
        server.due_s = now_s + delay_s
        log.warning("%s; restarting%s", what, f" in {delay_s:g} s" if delay_s else "")

    def _last_words(self, server: _Server) -> str:
        """The last line that a server has printed, and where the others are."""
        if server.output is None:
            # A server that could never be started has not said anything either.
            return "its reason is above"
        last = server.output.last_line.removeprefix("seed-envserver: ") or "it said nothing"
        return f"{last} (more in {self._log_file})"

    def _read(self) -> None:
        """Takes in what servers have printed, a piece of each in turn."""
        left_bytes = _READ_BYTES
        outputs = [server.output for server in self._servers if server.output is not None]
        while outputs and left_bytes > 0:
            read = [output.read() for output in outputs]
            left_bytes -= sum(read)
            outputs = [output for output, size in zip(outputs, read, strict=True) if size]

    def stop(self, timeout_s: float) -> None:
        """Waits for the servers to leave by themselves, then ends those that have not."""
        self._wait(timeout_s)
        for process in self._processes():
            process.terminate()
        self._wait(timeout_s)
        for process in self._processes():
            process.kill()
            process.wait()
        self._wait_for_ends(_END_PATIENCE_S)

    def _processes(self) -> list[subprocess.Popen[bytes]]:
        return [server.process for server in self._servers if server.process is not None]

    def _wait(self, timeout_s: float) -> None:
        """Waits until all have ended, or for so long."""
        deadline_s = time.monotonic() + timeout_s
        for process in self._processes():
            while process.poll() is None and time.monotonic() < deadline_s:
                self._read()
                time.sleep(_WAIT_INTERVAL_S)

    def _wait_for_ends(self, timeout_s: float) -> None:
        """Waits until what the servers have started has ended too, as far as it can be seen."""
        deadline_s = time.monotonic() + timeout_s
        outputs = [server.output for server in self._servers if server.output is not None]
        while time.monotonic() < deadline_s:
            self._read()
            if all(output.ended for output in outputs):
                break
            time.sleep(_WAIT_INTERVAL_S)
        for output in outputs:
            output.finish()


def _end(status: int) -> str:
    """How a process ended, for a person."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"
