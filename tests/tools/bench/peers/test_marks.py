from __future__ import annotations

import subprocess
import sys

import pytest

from tools.bench.peers.marks import (
    Mark,
    print_mark,
    read_marks,
    steady_window,
    steps_per_s,
)
from tools.bench.processes import ROOT


def test_what_is_printed_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    print("a progress bar without its end", end="")
    print_mark(8)
    print("other words")
    print_mark(1024)
    marks = read_marks(capsys.readouterr().out)
    assert [mark.steps for mark in marks] == [8, 1024]
    assert 0 < marks[0].time_s <= marks[1].time_s


def test_half_a_line_is_not_read() -> None:
    assert read_marks("peer-mark 1.5 10\npeer-mark 2.5 10") == [Mark(1.5, 10)]
    assert read_marks("peer-mark 1.5\nno-mark 1.5 10\n") == []
    assert read_marks("") == []


def test_the_window_holds_whole_updates_after_settling() -> None:
    marks = [Mark(10, 0), Mark(12, 100), Mark(15, 400), Mark(18.5, 700), Mark(21, 1000)]
    # Settled from 14 on, so from the mark at 15; 5 seconds later comes the mark at 21.
    window = steady_window(marks, settle_s=4, seconds=5)
    assert window == (Mark(15, 400), Mark(21, 1000))
    assert steps_per_s(*window) == 100


@pytest.mark.parametrize("seen", [0, 1, 2, 3, 4])
def test_an_unfinished_window_is_none(seen: int) -> None:
    marks = [Mark(10, 0), Mark(12, 100), Mark(15, 400), Mark(18.5, 700), Mark(21, 1000)]
    assert steady_window(marks[:seen], settle_s=4, seconds=5) is None


def test_marks_need_no_package() -> None:
    command = [sys.executable, "-S", "-c", "from tools.bench.peers.marks import print_mark"]
    subprocess.run(command, cwd=ROOT, check=True)
