"""Peers are started, timed by their marks, and ended with all that they have started."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from tests.waiting import is_running, wait_for
from tools.bench.peers import __main__ as peers
from tools.bench.peers.__main__ import OURS, compare, measure_in_turns, parse_peer, running
from tools.bench.peers.marks import Mark, print_mark, read_marks, steady_window, steps_per_s
from tools.processes import ROOT, Processes, ProcessFailed
from tools.report import Spread

MARKS = [Mark(10, 0), Mark(12, 100), Mark(15, 400), Mark(18.5, 700), Mark(21, 1000)]


def test_what_is_printed_is_read_and_half_a_line_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    print("a progress bar without its end", end="")
    print_mark(8)
    print("other words")
    print_mark(1024)
    marks = read_marks(capsys.readouterr().out)
    assert [mark.steps for mark in marks] == [8, 1024]
    assert 0 < marks[0].time_s <= marks[1].time_s
    assert read_marks("peer-mark 1.5 10\npeer-mark 2.5 10") == [Mark(1.5, 10)]
    assert read_marks("peer-mark 1.5\nno-mark 1.5 10\n") == []


@pytest.mark.parametrize("seen", range(len(MARKS) + 1))
def test_the_window_holds_whole_updates_after_settling(seen: int) -> None:
    window = steady_window(MARKS[:seen], settle_s=4, seconds=5)
    # Settled from 14 on, so from the mark at 15; 5 seconds later comes the mark at 21.
    assert window == (None if seen < len(MARKS) else (Mark(15, 400), Mark(21, 1000)))
    if window is not None:
        assert steps_per_s(*window) == 100


def test_marks_need_no_package() -> None:
    command = [sys.executable, "-S", "-c", "from tools.bench.peers.marks import print_mark"]
    subprocess.run(command, cwd=ROOT, check=True)


def test_workers_of_a_peer_do_not_outlive_it() -> None:
    parent = (
        "import subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "print('worker', worker.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    with Processes() as processes:
        with running("peer", [sys.executable, "-c", parent], processes) as process:
            worker = int(process.wait_for("worker ").split()[1])
            os.kill(worker, 0)
        wait_for(lambda: not is_running(worker))


def test_ratios_compare_within_a_repetition_and_the_fastest_is_first() -> None:
    speeds = {OURS: [900.0, 1000.0, 1200.0], "slow": [100.0, 100.0, 120.0],
              "fast": [450.0, 500.0, 400.0], "lucky": [300.0, 440.0, 800.0]}  # fmt: skip
    figures = compare(speeds)
    assert list(figures) == [OURS, "fast", "lucky", "slow"]
    assert figures["fast"] == {"steps_per_s": Spread(450, 400, 500), "ratio": Spread(2, 2, 3)}


def test_a_peer_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def measure_peer(name: str, *_: object) -> float:
        measured.append(name)
        if name == "bad":
            raise ProcessFailed("bad ended")
        return 20.0

    monkeypatch.setattr(peers, "measure_ours", lambda *_: 50.0)
    monkeypatch.setattr(peers, "measure_peer", measure_peer)
    options = argparse.Namespace(repetitions=2, seconds=1.0, override=[])
    with Processes() as processes:
        speeds = measure_in_turns({"bad": ["x"], "good": ["y"]}, options, processes)
        assert speeds == {OURS: [50.0, 50.0], "good": [20.0, 20.0]}
        assert measured == ["bad", "good", "good"]
        assert "left out: bad ended" in capsys.readouterr().err
        with pytest.raises(ProcessFailed):
            measure_in_turns({"bad": ["x"]}, options, processes)


def test_a_peer_is_a_name_and_a_command() -> None:
    assert parse_peer("a b=env X=1 'p q' --c=d") == ("a b", ["env", "X=1", "p q", "--c=d"])
