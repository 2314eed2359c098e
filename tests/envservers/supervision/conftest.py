"""Real processes: a supervisor, and an environment server that does what a test tells it to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import DEADLINE_S, is_running, wait_for

PROGRAM = """
import json, os, signal, subprocess, sys, time
from envservers.supervision.processes import descendants
from envservers.supervision.shared_state import Patience
from envservers.supervision.supervisor import supervise
from seed.wire.terminal import shield_output
shield_output()
# As in a terminal, also where the tests run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
options = json.loads(sys.argv[3])

def fork(then):
    pid = os.fork()
    if not pid:
        then()
        time.sleep(1000)
    return pid

def double_fork():
    os.setsid()
    if os.fork():
        os._exit(0)

def start_helpers(supervision, log):
    # One that was forked, one that another program is, one that has left the group and the session,
    # and one whose parent has ended.
    fork(lambda: None)
    fork(os.setsid)
    os.waitpid(fork(double_fork), 0)
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pids = os.getpid(), os.getppid(), supervision.supervisor, *descendants(supervision.supervisor)
    log.write(f" pids {' '.join(map(str, pids))}\\n")

def work(supervision):
    log = open(sys.argv[1], "a", buffering=1)
    crash = supervision.crash
    died = crash and f"{crash.kind} {crash.group} {crash.index}"
    log.write(f"{os.getpid()} {supervision.server_id} {died}\\n")
    if crash:
        log.write("".join("  " + line + "\\n" for line in crash.text.splitlines()))
    lives = open(sys.argv[1]).read().count(str(supervision.server_id))
    shared = supervision.shared
    exec(sys.argv[2])
    return shared.exit_code or 0

jitter, timeout_s = options.pop("jitter"), options.pop("step_timeout_s")
given = {name: options.pop(name) for name in ("once", "starter")}
patience = Patience(**options)
sys.exit(supervise(work, timeout_s, jitter=lambda: jitter, patience=patience, **given))
"""
DEFAULTS = {
    "jitter": 0.0, "step_timeout_s": 1.0, "stopped_s": DEADLINE_S, "same_request_s": DEADLINE_S,
    "close_s": 1e6, "grace_s": 1e6, "once": False, "starter": None,
}  # fmt: skip
STARTER = [sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"]


class Supervised:
    """A program under a supervisor, perhaps started by another one, and what it has written."""

    def __init__(self, log: Path, code: str, *, started: bool = False, **options: float) -> None:
        log.touch()
        self.log = log
        # Those with helpers: the processes of the environment server by name, and all of them.
        self.pid_of, self.all = dict[str, int](), set[int]()
        command = [sys.executable, "-c", PROGRAM, str(log), code, json.dumps(DEFAULTS | options)]
        self.process = subprocess.Popen(
            [*STARTER, *command] if started else command,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def lines(self) -> list[str]:
        """One for each life."""
        return [line for line in self.log.read_text().splitlines() if line[0] != " "]

    def pid(self, life: int = 0) -> int:
        wait_for(lambda: len(self.lines()) > life)
        return int(self.lines()[life].split()[0])

    def wait_until_said(self, word: str) -> list[str]:
        """The other words of the first line that begins with a blank and this one."""
        lines = re.compile(rf"^ {word}\b(.*)\n", re.M)
        wait_for(lambda: bool(lines.search(self.log.read_text())))
        found: list[str] = lines.findall(self.log.read_text())
        return found[0].split()

    def find_processes(self) -> None:
        """All that there are once the first life has started its helpers."""
        pids = [int(pid) for pid in self.wait_until_said("pids")]
        self.pid_of = dict(zip(("worker", "warden", "supervisor"), pids, strict=False))
        self.pid_of["starter"] = self.process.pid
        self.all = set(pids)
        # The three, and four helpers.
        assert len(self.all) == 7

    def left(self) -> set[int]:
        return {pid for pid in self.all if is_running(pid)}

    def deaths(self) -> list[str]:
        return [line.split(maxsplit=2)[2] for line in self.lines()]

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, errors


Run = Callable[..., Supervised]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started: list[Supervised] = []

    def start(code: str, **options: Any) -> Supervised:
        started.append(Supervised(tmp_path / "log", code, **options))
        return started[-1]

    yield start
    for supervised in started:
        for pid in supervised.left():
            os.kill(pid, signal.SIGKILL)
        supervised.process.kill()
        supervised.process.communicate(timeout=DEADLINE_S)
