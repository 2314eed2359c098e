"""Starts the real commands for a measurement, and leaves none behind.

    with Processes() as processes:
        learner = processes.start_learner(config)
        window = watching.measure(learner, 5.0, processes.check)

Every process has a session of its own, so that Ctrl-C reaches the measurement alone, which then
ends them all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import tomli_w

ROOT = Path(__file__).parents[1]
LOG_INTERVAL_S = 0.25
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05
# A run that only the measurement ends.
ENDLESS_FRAMES = 10**13
_GRACE_S = 2.0
_LAST_LINES = 12
_LISTENING = "listening on "


class ProcessFailed(Exception):
    """A process ended or was silent where it should not; the text has its last lines."""


class Process:
    """A running command whose output goes to a file.

    Attributes:
        run_dir: Of a server: where it writes `metrics.jsonl`.
        endpoint: Of a server that listens: its address.
    """

    def __init__(self, name: str, command: Sequence[str], log_file: Path) -> None:
        """Starts it in the repository's root."""
        self.name, self.log_file = name, log_file
        self.run_dir, self.endpoint = log_file.with_suffix(""), ""
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
            time.sleep(POLL_S)

    def wait_until_listening(self) -> None:
        """Waits for the line with its address; raises ProcessFailed where there is none."""
        self.endpoint = self.wait_for(_LISTENING).partition(_LISTENING)[2].partition(",")[0]

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


class Processes:
    """All processes of a measurement, with a temporary folder for what they write.

    A context manager; at its end all processes are stopped and the folder is removed.
    """

    def __init__(self) -> None:
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
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.stop(*reversed(self._running))
        self._temporary.cleanup()
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, self._handler)

    def start(self, name: str, command: Sequence[str]) -> Process:
        """Starts a command; RUN_DIR in it stands for an empty folder."""
        self._started += 1
        run_dir = self.folder / f"{name.replace(' ', '-')}-{self._started}"
        run_dir.mkdir()
        words = [word.replace("RUN_DIR", str(run_dir)) for word in command]
        process = Process(name, words, run_dir.with_suffix(".log"))
        self._running.append(process)
        return process

    def start_learner(
        self,
        config: Mapping[str, Any] | Path,
        options: Sequence[str] = (),
        *,
        name: str = "seed-learner",
        listening: bool = True,
    ) -> Process:
        """Starts `seed-learner` at a free port; returns once its address is known.

        Args:
            config: A TOML file, or its tables.
            options: Overrides, such as `["--network.lstm-size", "512"]`. Unless they say otherwise,
                metrics are written every `LOG_INTERVAL_S`, and the run never ends by itself.
            name: What errors call it.
            listening: False to return at once, before `Process.wait_until_listening`.
        """
        if not isinstance(config, Path):
            tables, config = config, self.folder / f"config-{self._started}.toml"
            config.write_text(tomli_w.dumps(tables))
        learner = self.start(name, [
            sys.executable, "-m", "seed", str(config.resolve()), "--run-dir", "RUN_DIR",
            "--inference.address",
            "tcp://127.0.0.1:*", "--log-interval-s", str(LOG_INTERVAL_S),
            "--total-env-frames", str(ENDLESS_FRAMES), *options,
        ])  # fmt: skip
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
                time.sleep(POLL_S)
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


def _check(processes: Sequence[Process]) -> None:
    """Raises ProcessFailed where one has ended; for the oldest that has."""
    if any(process.exit_code is not None for process in processes):
        # Clients leave with a server that fails, often before it has ended.
        time.sleep(_GRACE_S)
        for process in processes:
            process.check()


def sigterm_event() -> threading.Event:
    """An event that SIGTERM sets from now on, in a process that a measurement has started."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    return stopping


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
