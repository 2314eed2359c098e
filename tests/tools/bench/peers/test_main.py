from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.waiting import is_running, wait_for
from tools.bench.peers import __main__ as peers
from tools.bench.peers.__main__ import main, make_entries, running
from tools.bench.peers.starts import STARTS
from tools.bench.processes import Processes, ProcessFailed


def test_every_start_is_measured_with_every_number_of_threads() -> None:
    entries = make_entries([("stable-baselines3", Path("python"))], [1, 2])
    assert len(entries) == 2 * len(STARTS["stable-baselines3"])
    assert len({entry.name for entry in entries}) == len(entries)
    assert [entry.threads for entry in entries[:2]] == [1, 2]


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


def test_a_wrong_peer_is_said_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--peer", "unknown=python"])
    assert exit_info.value.code == 2
    assert "NAME=PATH_TO_PYTHON" in capsys.readouterr().err


def test_turns_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = iter([90.0, 30.0, 20.0, 10.0, 100.0, 50.0, 20.0, 10.0])
    monkeypatch.setattr(peers, "measure_ours", lambda *_: next(speeds))
    monkeypatch.setattr(peers, "measure_peer", lambda *_: next(speeds))
    path = tmp_path / "figures.json"
    peer = f"stable-baselines3={sys.executable}"
    options = ["--threads", "1", "--repetitions", "2", "--json", str(path)]
    assert main(["--peer", peer, *options]) == 0
    assert "seed-learner / best peer" in capsys.readouterr().out
    figures = json.loads(path.read_text())
    assert list(figures["steps_per_s"].values()) == [[90, 100], [30, 50], [20, 20], [10, 10]]
    comparison = figures["comparison"]
    best = comparison["best_peer"]
    assert comparison["ratios"][best] == {"median": 2.5, "low": 2, "high": 3}


def test_a_peer_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def measure_peer(entry: peers.Entry, *_: object) -> float:
        measured.append(entry.name)
        if "A2C" in entry.name:
            raise ProcessFailed("A2C ended")
        return 20.0

    monkeypatch.setattr(peers, "measure_ours", lambda *_: 50.0)
    monkeypatch.setattr(peers, "measure_peer", measure_peer)
    peer = f"stable-baselines3={sys.executable}"
    assert main(["--peer", peer, "--threads", "1", "--repetitions", "2"]) == 0
    out, err = capsys.readouterr()
    assert "2.50 (2.50–2.50)" in out
    assert "left out: A2C ended" in err
    assert sum("A2C" in name for name in measured) == 1


def test_nothing_is_compared_where_all_peers_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_peer(*_: object) -> float:
        raise ProcessFailed("ended")

    monkeypatch.setattr(peers, "measure_ours", lambda *_: 50.0)
    monkeypatch.setattr(peers, "measure_peer", measure_peer)
    peer = f"stable-baselines3={sys.executable}"
    assert main(["--peer", peer, "--threads", "1", "--repetitions", "2"]) == 1
