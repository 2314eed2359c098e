"""`--dry-run` says what a run would be, in a form that is itself a configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.end_to_end.commands import Start


def test_dry_run_prints_the_resolved_configuration_and_starts_nothing(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    command = start("seed-learner", "configs/pong_vtrace.toml", "--dry-run", "--seed", 9,
                    "--run-dir", run_dir, "--algorithm.discount", 0.5)  # fmt: skip
    assert command.wait() == 0, command.text
    # On a slow machine standard error says before what it waits for.
    tables = tomllib.loads(command.text[command.text.index("run_dir = ") :])
    assert tables["seed"] == 9
    assert tables["algorithm"]["discount"] == 0.5
    assert tables["environment"]["atari"]["action_repeat"] == 4
    assert "(84, 84)" in command.text
    assert "local environment server" in command.text  # one for each core
    assert not run_dir.exists()
