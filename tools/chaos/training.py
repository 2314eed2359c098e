"""A real training whose learner and environment servers may be killed: they are started anew.

Every environment server has a link of its own to the learner (`tools.chaos.proxy`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from tools.chaos.marks import SERVER_VARIABLE, WRONG
from tools.chaos.observing import Line, Sample, Tail, take_sample
from tools.chaos.proxy import FaultProxy, Link
from tools.processes import Process, Processes

T = TypeVar("T")
CONFIG = Path(__file__).with_name("catch.toml")
_SAMPLE_INTERVAL_S = 1.0
# From an environment server's end to its successor's start.
_RESTART_PAUSE_S = 0.5


class Setup(NamedTuple):
    """What is trained: so many environment servers of `envs` environments each.

    `overrides` are more options of `seed-learner`.
    """

    servers: int
    envs: int
    seed: int
    checkpoint_interval_s: float
    overrides: tuple[str, ...] = ()


class Resume(NamedTuple):
    """How far a killed learner's successor went back, in frames and in seconds of training."""

    lost_frames: int
    lost_s: float


class Server:
    """An environment server: its link, and the process that it is at present."""

    def __init__(self, index: int, link: Link, process: Process) -> None:
        """With a process that has been started."""
        self.index, self.link, self.process = index, link, process
        self.restart_due_s: float | None = None


class Training:
    """A learner and its environment servers; `look` keeps them running and reads what they say.

    Attributes:
        lines: Metrics of the learner's present process.
        made_s: By environment server, since when each of its environments has given an unroll that
            was learned from whole; seconds since the start.
        resumes: What each killed learner's successor lost.
        samples: The learners' memory and open files.
        unexpected: Ends of the learner that nobody asked for.
        last_return: Mean return of the newest 100 episodes; None before any has ended.
    """

    def __init__(self, setup: Setup, processes: Processes, proxy: FaultProxy, port: int) -> None:
        """Starts everything; returns when the learner listens."""
        self.setup, self._processes, self._proxy = setup, processes, proxy
        self.start_s = time.monotonic()
        self._address = f"tcp://127.0.0.1:{port}"
        self._run_dir = processes.folder / f"run-{port}"
        self._tail = Tail(self._run_dir / "metrics.jsonl")
        self.lines: list[Line] = []
        self.made_s: dict[int, float] = {}
        self.resumes: list[Resume] = []
        self.samples: list[Sample] = []
        self.unexpected: list[str] = []
        self.env_frames = 0
        self.last_return: float | None = None
        # Unrolls checked, by learner's process.
        self._checked: list[int] = []
        self._logs: list[Path] = []
        self._next_sample_s = 0.0
        self.start_learner()
        self.servers = [
            Server(index, link, self._start_server(index, link))
            for index, link in enumerate(proxy.links)
        ]

    def start_learner(self) -> None:
        """Starts the learner, which goes on from its checkpoint; returns when it listens."""
        setup = self.setup
        self.learner = self._processes.start("seed-learner", [
            sys.executable, "-m", "seed", str(CONFIG), "--run-dir", str(self._run_dir),
            "--inference.address", self._address, "--seed", str(setup.seed),
            "--environment.kwargs.start-us", str(int(self.start_s * 1e6)),
            "--checkpoint-interval-s", str(setup.checkpoint_interval_s), *setup.overrides,
        ])  # fmt: skip
        self._logs.append(self.learner.log_file)
        self.learner.wait_for("listening on ")
        if self.lines:
            self._note_resume()
        self.lines = []
        self._checked.append(0)

    def _note_resume(self) -> None:
        found = re.search(r"going on from (\d+) frames", self.learner.text)
        start = int(found.group(1)) if found else 0
        last = self.lines[-1]
        # Of the lines before the checkpoint's frame the last one, which is at most a line early.
        before = [line["time_s"] for line in self.lines if line["env_frames"] <= start]
        saved_s = before[-1] if before else self.lines[0]["time_s"]
        self.resumes.append(Resume(last["env_frames"] - start, last["time_s"] - saved_s))

    def _start_server(self, index: int, link: Link) -> Process:
        return self._processes.start(f"seed-envserver {index}", [
            "env", f"{SERVER_VARIABLE}={index}", sys.executable, "-m", "envservers.main",
            "--connect", link.address, "--num-envs", str(self.setup.envs),
        ])  # fmt: skip

    def signal(self, process: Process, number: signal.Signals) -> None:
        """Sends a signal to the process and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def call(self, method: Callable[[], T]) -> T:
        """Runs a link's method where links live; see `FaultProxy.call`."""
        return self._proxy.call(method)

    def kill_learner(self) -> None:
        """Kills the learner; returns when its successor listens."""
        self.signal(self.learner, signal.SIGKILL)
        self._processes.stop(self.learner)
        self._read_metrics()
        self.start_learner()

    def stop_learner(self) -> int | None:
        """Asks the learner to end; its exit code."""
        self._processes.stop(self.learner)
        self._read_metrics()
        return self.learner.exit_code

    def wake_all(self) -> None:
        """Lets stopped processes go on, so that they can be ended."""
        for process in (self.learner, *(server.process for server in self.servers)):
            self.signal(process, signal.SIGCONT)

    def look(self) -> None:
        """Starts anew who has ended, and reads what is new; to be called some times a second."""
        now_s = time.monotonic()
        self._read_metrics()
        for server in self.servers:
            self._keep(server, now_s)
        exit_code = self.learner.exit_code
        if exit_code is not None:
            failure = self.learner.failure(f"ended with exit code {exit_code}")
            self.unexpected.append(str(failure))
            self._processes.stop(self.learner)
            self.start_learner()
        if now_s >= self._next_sample_s:
            self._next_sample_s = now_s + _SAMPLE_INTERVAL_S
            sample = take_sample(self.learner.pid, now_s)
            if sample is not None:
                self.samples.append(sample)

    def _keep(self, server: Server, now_s: float) -> None:
        """Starts an environment server anew, a moment after it has ended."""
        if server.process.exit_code is None:
            return
        if server.restart_due_s is None:
            server.restart_due_s = now_s + _RESTART_PAUSE_S
        elif now_s >= server.restart_due_s:
            server.restart_due_s = None
            self._processes.stop(server.process)
            server.process = self._start_server(server.index, server.link)

    def _read_metrics(self) -> None:
        for line in self._tail.read():
            self.lines.append(line)
            self.env_frames = line["env_frames"]
            self.last_return = line["episode_return_mean"]
            self._checked[-1] = max(self._checked[-1], int(line.get("unrolls_checked") or 0))
            for server in range(self.setup.servers):
                if line.get(f"envs_server_{server}") == self.setup.envs:
                    self.made_s[server] = line[f"made_s_server_{server}"]

    @property
    def unrolls_checked(self) -> int:
        """By all learners."""
        return sum(self._checked)

    def wrong(self) -> list[Line]:
        """The wrong unrolls, as the learners' logs describe them (`tools.chaos.marks.WRONG`)."""
        return [
            json.loads(line.partition(WRONG)[2])
            for log in self._logs
            for line in log.read_text(errors="replace").splitlines()
            if WRONG in line
        ]

    def now_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start_s
