"""The installed commands find a user's modules, and none of a user's files stands in their way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
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


LOUD_ENVIRONMENT = """
import os, signal
import gymnasium

os.write(1, b"hello from C\\n")
print("hello from Python")

def make():
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("made")
    return gymnasium.make("CartPole-v1")
"""
# Of this product, of what it needs, and of Python.
SHADOWS = ("seed", "envservers", "numpy", "torch", "zmq", "queue", "json", "sitecustomize", "main")


def run(command: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs an installed command to its end, which must be a good one."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [Path(sys.executable).with_name(command), *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished


def test_modules_of_the_working_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "my_environment.py").write_text(ENVIRONMENT)
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM)
    (tmp_path / "my.toml").write_text(CONFIG)
    run("seed-learner", "my.toml", "--run-dir", "run", "--inference.address",
        "tcp://127.0.0.1:*", cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_environment_beside_the_configuration_does_as_it_likes_and_hinders_nobody(
    tmp_path: Path,
) -> None:
    """It takes signals, changes the folder and prints, among files with the names of others."""
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        for name in SHADOWS:
            (folder / f"{name}.py").write_text("raise ImportError('the wrong one')")
    (beside / "my_environment.py").write_text(LOUD_ENVIRONMENT)
    (beside / "my_algorithm.py").write_text(ALGORITHM + "print('hello from the algorithm')")
    (beside / "my.toml").write_text(CONFIG)
    words = ("../beside/my.toml", "--run-dir", "run", "--inference.address", "tcp://127.0.0.1:*")
    dry = run("seed-learner", *words, "--dry-run", cwd=here)
    assert tomllib.loads(dry.stdout)["run_dir"] == str(here / "run")
    assert run("seed-learner", *words, cwd=here).stdout == ""
    assert list((here / "run" / "checkpoints").glob("frames-*"))
    played = run("seed-eval", here / "run", "--episodes", 2, "--json", cwd=tmp_path)
    assert json.loads(played.stdout)["episodes"] == 2
    assert "hello from C" in played.stderr
