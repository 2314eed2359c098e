"""Running commands and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 240.0


@dataclass
class Command:
    """A running command with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code; the test fails, with the output, where it does not come in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {timeout_s} s:\n{self.text}") from None

    @property
    def text(self) -> str:
        """What it has printed, on both streams."""
        return self.output.read_text()

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Waits until the output contains the text; returns its first line that does."""
        wait_until(lambda: text in self.text or self.process.poll() is not None, timeout_s)
        assert text in self.text, f"{text!r} is not in:\n{self.text}"
        return next(line for line in self.text.splitlines() if text in line)


Start = Callable[..., Command]
Train = Callable[..., list[dict[str, Any]]]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Polls until the condition holds; the test fails where it does not."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; none where it does not exist yet."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def last_known(lines: list[dict[str, Any]], name: str) -> float:
    """The newest value of a metric that is not null."""
    value: float = next(line[name] for line in reversed(lines) if line.get(name) is not None)
    return value
