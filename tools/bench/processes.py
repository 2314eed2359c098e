"""Starts the real commands for a measurement, reads what they write, and leaves none behind.

    with Processes() as processes:
        learner = processes.start_learner(config)
        processes.start("server", envserver_command(learner.endpoint, 64, 2))
        window = measure(learner, 5.0, processes.check)

Every process has a session of its own, so that Ctrl-C reaches the measurement alone, which then
ends them all. Linux only: figures of processes come from /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Self

import tomli_w

from tools.bench.thread_times import parse_stat

ROOT = Path(__file__).parents[2]
LOG_INTERVAL_S = 0.25
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
_POLL_S = 0.05
_GRACE_S = 2.0
_LAST_LINES = 12


class ProcessFailed(Exception):
    """A process ended or was silent where it should not; the text has its last lines."""


class Process:
    """A running command whose output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path) -> None:
        """Starts it in the repository's root."""
        self.name = name
        self.log_file = log_file
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(errors="replace")

    def check(self) -> None:
        """Raises ProcessFailed where it has ended, whatever its exit code."""
        if self.exit_code is not None:
            raise self.failure(f"ended with exit code {self.exit_code}")

    def failure(self, what: str) -> ProcessFailed:
        """An exception that says what went wrong and what the process said last."""
        lines = [line for line in self.text.splitlines() if line.strip()][-_LAST_LINES:]
        said = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        return ProcessFailed(f"{self.name} {what}; it said last:\n{said}")

    def wait_for(self, text: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """The first line of its output that contains the text; raises ProcessFailed otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            exit_code = self.exit_code
            for line in self.text.splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line.rstrip("\n")
            if exit_code is not None:
                raise self.failure(f"ended with exit code {exit_code}")
            if time.monotonic() > deadline_s:
                raise self.failure(f"did not say {text!r} within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Asks it to stop, waits, and kills it with all that it started where it does not."""
        self.ask_to_stop()
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()


class Server(Process):
    """A process that environment servers connect to and that writes `metrics.jsonl`."""

    endpoint = ""
    run_dir = Path()

    def wait_until_listening(self) -> None:
        """Waits for the line with its address; raises ProcessFailed where there is none."""
        line = self.wait_for("listening on ")
        self.endpoint = line.partition("listening on ")[2].partition(",")[0]

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of its metrics so far."""
        return read_metrics(self.run_dir)


class Processes:
    """All processes of a measurement, with a temporary folder for what they write.

    A context manager; at its end all processes are stopped and the folder is removed.
    """

    def __init__(self) -> None:
        """Without processes."""
        self._temporary = tempfile.TemporaryDirectory(prefix="seed-bench-")
        self.folder = Path(self._temporary.name)
        self._running: list[Process] = []
        self._started = 0
        self._handler: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        """Makes SIGTERM end the measurement as Ctrl-C does, with processes stopped."""
        self._handler = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops everything, the youngest first; a second Ctrl-C does not hinder it."""
        with _signals_ignored():
            self.stop(*reversed(self._running))
            self._temporary.cleanup()
        signal.signal(signal.SIGTERM, self._handler)

    def start(
        self, name: str, command: Sequence[str], *, cores: Sequence[int] | None = None
    ) -> Process:
        """Starts a command, on these cores only where they are given."""
        with pinned(cores):
            process = Process(name, command, self._new_log(name))
            self._running.append(process)
        return process

    def start_server(
        self, name: str, command: Sequence[str], *, cores: Sequence[int] | None = None
    ) -> Server:
        """Starts `command --run-dir FOLDER`; returns before it listens."""
        log_file = self._new_log(name)
        run_dir = log_file.with_suffix("")
        run_dir.mkdir()
        with pinned(cores):
            server = Server(name, [*command, "--run-dir", str(run_dir)], log_file)
            server.run_dir = run_dir
            self._running.append(server)
        return server

    def start_learner(
        self,
        config: Mapping[str, Any] | Path,
        options: Sequence[str] = (),
        *,
        name: str = "seed-learner",
        cores: Sequence[int] | None = None,
        listening: bool = True,
    ) -> Server:
        """Starts `seed-learner`; returns once its address is known, unless `listening` is False.

        Args:
            config: A TOML file, or its tables.
            options: Overrides, such as `["--network.lstm-size", "512"]`.
            name: What errors call it.
            cores: The only ones that it may use.
            listening: Whether to wait for `Server.endpoint`.

        A free port is taken, and metrics are written every `LOG_INTERVAL_S`, unless the options
        say otherwise.
        """
        if not isinstance(config, Path):
            tables, config = config, self.folder / f"config-{self._started}.toml"
            config.write_text(tomli_w.dumps(tables))
        command = [
            sys.executable, "-m", "seed", str(config.resolve()), "--inference.address",
            "tcp://127.0.0.1:*", "--log-interval-s", str(LOG_INTERVAL_S), *options,
        ]  # fmt: skip
        learner = self.start_server(name, command, cores=cores)
        if listening:
            learner.wait_until_listening()
        return learner

    def check(self) -> None:
        """Raises ProcessFailed where a process has ended that nobody stopped; for the oldest."""
        _check(self._running)

    def finish(self, processes: Sequence[Process], timeout_s: float) -> None:
        """Waits until these have ended by themselves, with exit code 0, while the others run on."""
        deadline_s = time.monotonic() + timeout_s
        others = [process for process in self._running if process not in processes]
        for process in processes:
            while process.exit_code is None:
                _check(others)
                if time.monotonic() > deadline_s:
                    raise process.failure(f"still runs after {timeout_s:g} s")
                time.sleep(_POLL_S)
            if process.exit_code:
                _check([*others, process])
            self._running.remove(process)

    def stop(self, *processes: Process) -> None:
        """Stops these processes, all at the same time."""
        for process in processes:
            process.ask_to_stop()
        for process in processes:
            process.stop()
            self._running.remove(process)

    def _new_log(self, name: str) -> Path:
        self._started += 1
        return self.folder / f"{name.replace(' ', '-')}-{self._started}.log"


def _check(processes: Sequence[Process]) -> None:
    """Raises ProcessFailed where one has ended; for the oldest that has."""
    if any(process.exit_code is not None for process in processes):
        # Clients leave with a server that fails, often before it has ended.
        time.sleep(_GRACE_S)
        for process in processes:
            process.check()


def envserver_command(endpoint: str, num_envs: int, groups: int) -> list[str]:
    """The command line of a real environment server that leaves with its learner."""
    return [
        sys.executable, "-m", "envservers.main", "--connect", endpoint, "--once",
        "--num-envs", str(num_envs), "--groups", str(groups),
    ]  # fmt: skip


class Window(NamedTuple):
    """What a server's metrics said in some seconds.

    Attributes:
        seconds: Between the first and the last line.
        steps_per_s: Steps of all environments per second.
        updates_per_s: Of the learner.
        means: Every figure of the lines after the first, by name: mean where it was not null.
        cores_used: CPU seconds per second of the server's process.
    """

    seconds: float
    steps_per_s: float
    updates_per_s: float
    means: dict[str, float]
    cores_used: float = 0.0

    @property
    def cpu_us_per_step(self) -> float:
        """CPU time of the server's process for each step, in microseconds."""
        return self.cores_used / max(self.steps_per_s, 1e-9) * 1e6


def measure(server: Server, seconds: float, check: Callable[[], None]) -> Window:
    """Watches a running server for so long, and one line of its metrics longer.

    Args:
        server: It writes metrics and works already.
        seconds: At least so much time lies between the first line and the last.
        check: Called all the while; raises what ends the measurement.
    """
    seen = len(server.metrics())
    start_s, start_cpu_s = time.monotonic(), cpu_seconds(server.pid)
    deadline_s = start_s + seconds + START_TIMEOUT_S
    while True:
        check()
        lines = server.metrics()[seen:]
        if len(lines) > 1 and lines[-1]["time_s"] - lines[0]["time_s"] >= seconds:
            used_s = cpu_seconds(server.pid) - start_cpu_s
            cores = used_s / (time.monotonic() - start_s)
            return summarize_lines(lines)._replace(cores_used=cores)
        if time.monotonic() > deadline_s:
            raise server.failure(f"wrote no metrics for {seconds:g} s")
        time.sleep(_POLL_S)


def summarize_lines(lines: Sequence[Mapping[str, Any]]) -> Window:
    """The window between the first of these lines of metrics and the last; at least two."""
    first, last = lines[0], lines[-1]
    seconds: float = last["time_s"] - first["time_s"]
    known: dict[str, list[float]] = {}
    for line in lines[1:]:
        for name, value in line.items():
            if value is not None:
                known.setdefault(name, []).append(value)
    return Window(
        seconds,
        (last["env_steps"] - first["env_steps"]) / seconds,
        (last.get("learner_steps", 0) - first.get("learner_steps", 0)) / seconds,
        {name: sum(values) / len(values) for name, values in known.items()},
    )


def median_means(windows: Sequence[Window]) -> dict[str, float]:
    """The median of every figure that all of these windows know, by name."""
    names = set.intersection(*(set(window.means) for window in windows))
    return {
        name: statistics.median(window.means[name] for window in windows) for name in sorted(names)
    }


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; none where it does not exist yet."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, over all its threads."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_text()).cpu_s


def memory_bytes(pid: int) -> int:
    """Memory of a process that is in RAM (its resident set)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def pin(pid: int, cores: Sequence[int]) -> None:
    """Lets all threads of a running process use these cores only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread may end meanwhile
            os.sched_setaffinity(int(task.name), cores)


@contextlib.contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Processes started inside may use these cores only; None changes nothing."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
