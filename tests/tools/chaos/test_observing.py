"""Metrics are read as they grow; a process's growth is that of its longest life."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.chaos.observing import Sample, Tail, growth, take_sample


def test_each_line_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    for content, new in (
        ('{"a": 1}\n{"a"', [1]), ('{"a": 1}\n{"a": 2}\n{"a": 3}\n', [2, 3]),
        ('{"a": 1}\n{"a": 2}\n{"a": 3}\n', []),
        # A restart has set lines aside.
        ('{"a": 1}\n{"a": 4}\n{"a": 5}\n{"a": 6}\n', [4, 5, 6]),
        # Half a line of a killed process is skipped.
        ('{"a": {"a": 1}\n{"a": 2}\n', [2]),
    ):  # fmt: skip
        path.write_text(content)
        assert tail.read() == [{"a": number} for number in new]


def test_this_process_is_sampled() -> None:
    sample = take_sample(os.getpid(), 7.0)
    assert sample is not None
    assert sample.open_files > 2
    assert sample.memory_bytes > 2**20
    assert take_sample(2**22 + 1, 0.0) is None


def test_growth_is_of_the_longest_life_after_its_warm_up() -> None:
    short = [Sample(float(t), 1, 2**30, 99) for t in range(20)]
    # 1 MiB a second while it warms up, then 1 MiB a minute; one more file in the last fifth.
    long = [
        Sample(float(t), 2, int(2**20 * (min(t, 30) + t / 60)), 20 + (t > 110)) for t in range(131)
    ]
    long[60] = long[60]._replace(open_files=50)
    found = growth([*short, *long], warm_up_s=30.0)
    assert found is not None
    assert found.seconds == 100.0
    assert found.memory_mib_per_min == pytest.approx(1.0, rel=1e-3)
    assert (found.open_files_first, found.open_files_last) == (20, 21)
    assert growth(short, warm_up_s=15.0) is None
