"""A real training under faults: all recovered from, no unroll wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import PATIENCE_S
from tests.end_to_end.conftest import ROOT

KINDS = (
    "kill-envserver", "kill-learner", "stop-envserver", "stop-learner", "partition", "cut",
    "lose-envserver", "slow", "corrupt", "replay",
)  # fmt: skip


def run(command: list[str], figures_path: Path) -> dict[str, Any]:
    """The figures of a run in which nothing failed but, perhaps, a busy machine's disk to be fast.

    How much training a killed learner loses is judged by hand.
    """
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert figures_path.exists(), done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(figures_path.read_text())
    assert [what for what in figures["failures"] if "went back" not in what] == [], done.stdout
    return figures


def test_a_training_recovers_from_all_kinds_of_faults(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "tools.chaos", "--minutes", "30", "--faults", str(len(KINDS)),
        "--faults-per-minute", "600", "--longest-s", "1", "--servers", "2", "--envs", "8",
        "--checkpoint-interval-s", "1", "--seed", "1",
        "--json", str(tmp_path / "figures.json"), "--kinds", *KINDS,
    ]  # fmt: skip
    figures = run(command, tmp_path / "figures.json")
    assert figures["unrolls_wrong"] == 0
    assert figures["unrolls_checked"] > 100
    faults = figures["faults"]
    assert sorted(fault["kind"] for fault in faults) == sorted(KINDS)
    assert all(fault["recovered_s"] > fault["ended_s"] for fault in faults)
    assert len(figures["resumes"]) == 1


@pytest.mark.slow
def test_memory_and_open_files_stay_flat(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "tools.chaos", "--minutes", "2", "--faults-per-minute", "10",
        "--longest-s", "2", "--servers", "2", "--envs", "8", "--seed", "2",
        "--json", str(tmp_path / "figures.json"),
        "--kinds", "kill-envserver", "stop-envserver", "partition", "cut", "replay",
    ]  # fmt: skip
    growth = run(command, tmp_path / "figures.json")["growth"]
    assert growth["open_files_last"] <= growth["open_files_first"] + 4
    # A few of them are noise over so short a time; each unroll alone has 30 KiB.
    assert growth["memory_mib_per_min"] < 20
