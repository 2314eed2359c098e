"""While the learner waits for an environment to be made: what it says, and how it is stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.end_to_end.commands import Start, wait_until
from tests.waiting import is_running

CONFIG = """
[environment]
kind = "function"
id = "tests.seed.deeds:make_with_helpers"
kwargs = {{ file = "{file}", waits = true }}
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_learner_that_waits_says_so_and_leaves_with_all_that_was_started(
    start: Start, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    file = tmp_path / "pids"
    (tmp_path / "run.toml").write_text(CONFIG.format(file=file))
    command = start("seed-learner", tmp_path / "run.toml", "--run-dir", tmp_path / "run")
    command.wait_for("making one environment to learn its spaces")
    wait_until(file.exists)
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(map(is_running, pids))
    command.process.send_signal(number)
    assert command.wait() == code
    assert "Traceback" not in command.text
    wait_until(lambda: not any(map(is_running, pids)))
