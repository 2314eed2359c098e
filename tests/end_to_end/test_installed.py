"""The installed commands find a user's modules in the folder that they run in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.commands import PATIENCE_S

ENVIRONMENT = """
import gymnasium

def make(num_envs):
    return gymnasium.make_vec("CartPole-v1", num_envs)
"""
ALGORITHM = """
from seed.algorithms.vtrace import DATA_SOURCE, Config, act, loss, make_agent
"""
CONFIG = """
total_env_frames = 2_000
local_envservers = 1

[environment]
kind = "function"
id = "my_environment:make"

[algorithm]
name = "my_algorithm"
"""


def test_modules_of_the_working_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "my_environment.py").write_text(ENVIRONMENT)
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM)
    (tmp_path / "my.toml").write_text(CONFIG)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [Path(sys.executable).with_name("seed-learner"), "my.toml", "--run-dir", "run",
         "--inference.address", "tcp://127.0.0.1:*"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "run" / "metrics.jsonl").exists()
