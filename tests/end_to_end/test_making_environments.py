"""While the learner waits for an environment to be made: what it says, and how it is stopped."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.end_to_end.commands import Start, wait_until
from tests.waiting import is_running

CONFIG = """
[environment]
kind = "function"
id = "tests.seed.deeds:make_with_helpers"
kwargs = {{ file = "{file}", waits = true }}
"""


def test_a_learner_that_waits_says_so_and_leaves_with_all_that_was_started(
    start: Start, tmp_path: Path
) -> None:
    """By other signals: `tests/seed/run/test_description.py`."""
    file = tmp_path / "pids"
    (tmp_path / "run.toml").write_text(CONFIG.format(file=file))
    command = start("seed-learner", tmp_path / "run.toml", "--run-dir", tmp_path / "run")
    command.wait_for("making one environment to learn its spaces")
    wait_until(file.exists)
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(map(is_running, pids))
    command.process.send_signal(signal.SIGTERM)
    assert command.wait() == 75
    assert "Traceback" not in command.text
    wait_until(lambda: not any(map(is_running, pids)))
