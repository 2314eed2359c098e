"""Running commands and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed.learner import checkpoint

# For what has come to a halt. Nothing healthy takes so long, on however busy a machine.
PATIENCE_S = 900.0
# Of which a goal must be the mean.
_EPISODES = 50


@dataclass
class Command:
    """A running command with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait(self) -> int:
        """The exit code; the test fails, with the output, where it never comes."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {PATIENCE_S} s:\n{self.text}") from None

    @property
    def text(self) -> str:
        """What it has printed, on both streams."""
        return self.output.read_text()

    def wait_for(self, text: str) -> str:
        """Waits until the output contains the text; returns its first line that does."""
        wait_until(lambda: text in self.text or self.process.poll() is not None)
        assert text in self.text, f"{text!r} is not in:\n{self.text}"
        return next(line for line in self.text.splitlines() if text in line)


Start = Callable[..., Command]
Train = Callable[..., list[dict[str, Any]]]


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls until the condition holds; the test fails where it never does."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; none where it does not exist yet."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def kept_frames(run_dir: Path) -> int:
    """Frames at the run's newest checkpoint, 0 where there is none."""
    names = checkpoint.names(run_dir / "checkpoints")
    return max((int(name.split("-")[1]) for name in names), default=0)


def last_known(lines: list[dict[str, Any]], name: str) -> float:
    """The newest value of a metric that is not null."""
    value: float = next(line[name] for line in reversed(lines) if line.get(name) is not None)
    return value


def reached_once(lines: list[dict[str, Any]], figure: str, goal: float) -> bool:
    """Whether a mean of returns was as high as the goal, over enough episodes."""
    count = figure.replace("_mean", "_count")
    return any(line[count] >= _EPISODES and line[figure] >= goal for line in lines)
