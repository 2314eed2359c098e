"""Starts the real commands, with real sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import Command, Start, Train, read_metrics

ROOT = Path(__file__).parents[2]
MODULES = {"seed-learner": "seed", "seed-envserver": "envservers.main",
           "seed-eval": "seed.evaluate",
           "faulty-learner": "tests.end_to_end.faulty_learner"}  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one of the project's commands; whatever still runs at the test's end is killed."""
    commands: list[Command] = []

    def start_command(name: str, *arguments: object) -> Command:
        output = tmp_path / f"output-{len(commands)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULES[name], *map(str, arguments)],
                stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        commands.append(Command(process, output))
        return commands[-1]

    yield start_command
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


@pytest.fixture
def train(start: Start, tmp_path: Path) -> Train:
    """Trains a configuration to its end with local servers; returns its metrics lines."""

    def train_config(config: str, *overrides: object, run: str = "run") -> list[dict[str, Any]]:
        run_dir = tmp_path / run
        command = start(
            "seed-learner", config, "--run-dir", run_dir,
            "--inference.address", "tcp://127.0.0.1:*", *overrides,
        )  # fmt: skip
        assert command.wait() == 0, command.text
        return read_metrics(run_dir)

    return train_config
