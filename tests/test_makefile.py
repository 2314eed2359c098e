"""`make train`: a run that was stopped is no error, one that failed is, and signals get through."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Says which signal has come, and then ends as the learner does.
LEARNER = """#!/usr/bin/env python3
import signal, sys

def leave(number, frame):
    # The same request may come twice: through the shell, and to all processes.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    print("asked to end by", number, flush=True)
    sys.exit(130 if number == signal.SIGINT else 75)

if sys.argv[1].isdecimal():
    sys.exit(int(sys.argv[1]))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, leave)
print("training", sys.argv[1:], flush=True)
signal.pause()
"""


@pytest.fixture
def make(tmp_path: Path) -> list[str]:
    """The start of a command line of make, in an installation with a learner of this test's."""
    for name in ("python", "seed-learner"):
        program = tmp_path / name
        program.write_text(LEARNER)
        program.chmod(0o755)
    stamp = tmp_path / "stamp"
    stamp.touch()
    return ["make", "-C", str(ROOT), "train", f"BIN={tmp_path}", f"TRAIN_STAMP={stamp}"]


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("code", [0, 75, 130, 1, 2, 77, 78])
def test_only_a_failure_of_the_learner_is_one_of_make(make: list[str], code: int) -> None:
    process = _start([*make, f"CONFIG={code}"])
    output, _ = process.communicate(timeout=60)
    stopped = code in (0, 75, 130)
    assert (process.returncode == 0) == stopped
    assert ("***" in output) == (not stopped)
    assert f"/seed-learner {code} \n" in output


@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        # Of a terminal.
        (signal.SIGINT, True),
        (signal.SIGHUP, True),
        # Of whoever started make, and knows of nothing else.
        (signal.SIGTERM, False),
    ],
)
def test_the_learner_ends_in_its_own_time(make: list[str], number: int, to_all: bool) -> None:
    with _start([*make, "CONFIG=a.toml", 'ARGS=--address "tcp://x:*"']) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("training"):
            assert line
        assert line == "training ['a.toml', '--address', 'tcp://x:*']\n"
        (os.killpg if to_all else os.kill)(process.pid, number)
        output = process.communicate(timeout=60)[0]
    assert f"asked to end by {number}\n" in output
    assert "Error" not in output
