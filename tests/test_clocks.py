"""Nothing that ships asks for the time of day: a step of the wall clock can end nothing.

A date in a report is no interval, and what libraries write into logs and TensorBoard is theirs.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_OF_TIME = {"time", "time_ns"}
_OF_DATETIME = {"now", "utcnow", "today"}


def wall_clocks(source: str) -> list[str]:
    """Where the time of day is asked for: "line: what"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            of_time = (
                isinstance(node.value, ast.Name)
                and node.value.id == "time"
                and node.attr in _OF_TIME
            )
            if of_time or node.attr in _OF_DATETIME or "CLOCK_REALTIME" in node.attr:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            names = [alias.name for alias in node.names if alias.name in _OF_TIME]
            found += [f"{node.lineno}: from time import {name}" for name in names]
        elif isinstance(node, ast.Import):
            # Under another name it would not be recognised.
            found += [
                f"{node.lineno}: import time as {alias.asname}"
                for alias in node.names
                if alias.name == "time" and alias.asname
            ]
    return found


@pytest.mark.parametrize("folder", ["seed", "envservers", "tools"])
def test_only_monotonic_clocks(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [f"{path}:{place}" for path in files for place in wall_clocks(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\nstart_s = time.time()",
        "import time\nx = time.time_ns",
        "from time import monotonic, time",
        "import time as clock",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import date\ndate.today()",
        "import time\ntime.clock_gettime(time.CLOCK_REALTIME)",
    ],
)
def test_a_wall_clock_is_found(source: str) -> None:
    assert len(wall_clocks(source)) == 1


def test_other_clocks_are_left_alone() -> None:
    source = "import time\ntime.monotonic(); time.perf_counter(); self.time; line.time_s"
    assert wall_clocks(source) == []
