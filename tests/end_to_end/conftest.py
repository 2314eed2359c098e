"""Starts the real commands, with real sockets."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import (
    Command,
    Start,
    Train,
    reached_once,
    read_metrics,
    wait_until,
)

ROOT = Path(__file__).parents[2]
MODULES = {"seed-learner": "seed", "seed-envserver": "envservers.main",
           "seed-eval": "seed.run.evaluate",
           "faulty-learner": "tests.end_to_end.faulty_learner",
           "recording-learner": "tests.end_to_end.recording_learner"}  # fmt: skip


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
    """Trains a configuration with local servers, to its end or a goal; returns its metrics lines.

    The goal is of the figure `figure`. It is reached where that has been seen over enough episodes.
    """

    def train_config(
        config: str,
        *overrides: object,
        run: str = "run",
        figure: str = "episode_return_mean",
        goal: float = math.inf,
    ) -> list[dict[str, Any]]:
        run_dir = tmp_path / run
        command = start(
            "seed-learner", config, "--run-dir", run_dir,
            "--inference.address", "tcp://127.0.0.1:*", *overrides,
        )  # fmt: skip
        wait_until(
            lambda: command.process.poll() is not None
            or reached_once(read_metrics(run_dir), figure, goal)
        )
        command.process.send_signal(signal.SIGTERM)
        # The training may have come to its end by itself at the same time.
        assert command.wait() in (0, 75), command.text
        return read_metrics(run_dir)

    return train_config
