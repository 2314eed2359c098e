"""The command as a process: signals, and the end of the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envservers.supervision.processes import descendants
from seed.wire import messages
from seed.wire.limits import STARTER_VARIABLE
from tests.envservers.fake_learner import PATIENCE_MS, SocketLearner


@pytest.fixture
def learner() -> Iterator[SocketLearner]:
    learner = SocketLearner()
    yield learner
    learner.close()


def command(address: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "envservers.main", "--connect", address, *arguments]


def worker_of(pid: int) -> int:
    """The process that runs environments: the last below supervisor and warden."""
    ours = [
        child for child in descendants(pid)
        if b"envservers.main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]  # fmt: skip
    return ours[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_good_order(learner: SocketLearner, number: int) -> None:
    process = subprocess.Popen(
        command(learner.address, "--num-envs", "3"), stderr=subprocess.PIPE, text=True
    )
    assert learner.welcome().group_sizes == (2, 1)
    for _ in range(2):
        learner.receive(messages.Step)
    process.send_signal(number)
    assert learner.receive(messages.Goodbye).reason == "environment server stopped"
    _, errors = process.communicate(timeout=PATIENCE_MS / 1000)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_once_ends_with_the_process_that_started_it(learner: SocketLearner) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()",
         *command(learner.address, "--num-envs", "1", "--once")],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    learner.welcome()
    learner.receive(messages.Step)
    os.kill(starter.pid, signal.SIGKILL)
    assert "started this one has ended" in learner.receive(messages.Goodbye).reason
    # The pipe ends when the last process that holds it does.
    starter.communicate(timeout=PATIENCE_MS / 1000)


# It may have been killed before this process could look whose child it is.
def test_once_ends_at_once_where_who_started_it_has_ended_already() -> None:
    starter = subprocess.Popen(["true"])
    starter.wait()
    process = subprocess.run(
        command("tcp://127.0.0.1:1", "--num-envs", "1", "--once", "--wait-s", "30"),
        env={**os.environ, STARTER_VARIABLE: str(starter.pid)}, capture_output=True, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, b"")


def test_a_server_that_cannot_print_works_and_ends_as_it_should(learner: SocketLearner) -> None:
    """Where else it cannot, `test_forwarding.py` has."""
    process = subprocess.Popen(
        ["sh", "-c", '{ ("$@"; echo $? >&3) 2>&1 | head -1 >/dev/null; } 3>&1', "sh",
         *command(learner.address, "--num-envs", "3", "--name", "mute")],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    # Each has it say a line, and the second one is more than `head` reads.
    for _ in range(3):
        learner.welcome()
        for _ in range(2):
            learner.receive(messages.Step)
        learner.send(messages.Goodbye(11, "the learner was stopped"))
    learner.receive(messages.Hello)
    # And so has the supervisor.
    os.kill(worker_of(process.pid), signal.SIGKILL)
    learner.welcome()
    assert learner.receive(messages.Fault).kind == "was killed"
    for _ in range(2):
        learner.receive(messages.Step)
    learner.send(messages.Refusal("no more", False, 11))
    output, _ = process.communicate(timeout=PATIENCE_MS / 1000)
    assert output == "2\n"
