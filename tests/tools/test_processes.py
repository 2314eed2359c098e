"""Processes of a measurement are started, watched, blamed for their ends, and ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.waiting import is_running
from tools.processes import Process, Processes, ProcessFailed
from tools.watching import (
    cpu_seconds,
    median_means,
    memory_bytes,
    read_metrics,
    read_stat,
    summarize_lines,
    wait_until_learning,
)

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)",
]  # fmt: skip


def test_all_are_ended_after_an_interrupt_and_the_folder_is_gone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    started: list[Process] = []
    processes = Processes()

    def be_stopped() -> None:
        with processes:
            started.extend(processes.start("sleeper", SLEEP) for _ in range(2))
            assert started[0].run_dir.parent == processes.folder
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        be_stopped()
    assert not any(is_running(process.pid) for process in started)
    assert not processes.folder.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_does_not_stop_is_killed() -> None:
    with Processes() as processes:
        process = processes.start("stubborn", STUBBORN)
        process.wait_for("up")
        process.stop(timeout_s=0.1)
        assert process.exit_code == -signal.SIGKILL


def test_a_failure_says_the_last_words() -> None:
    lines = "; ".join(f"print('line {number}')" for number in range(100))
    command = [sys.executable, "-c", f"{lines}; raise SystemExit(3)"]
    with Processes() as processes:
        process = processes.start("the learner", command)
        with pytest.raises(ProcessFailed, match="the learner ended with exit code 3") as error:
            process.wait_for("never said")
    assert str(error.value).endswith("line 99")
    assert "line 10\n" not in str(error.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.processes._GRACE_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_the_oldest_that_ended_is_blamed_and_nobody_who_was_stopped() -> None:
    with Processes() as processes:
        processes.stop(processes.start("alive", SLEEP))
        processes.check()
        cause = processes.start("cause", [sys.executable, "-c", "raise SystemExit(1)"])
        consequence = processes.start("consequence", [sys.executable, "-c", ""])
        while consequence.exit_code is None or cause.exit_code is None:
            time.sleep(0.01)
        with pytest.raises(ProcessFailed, match="cause ended with exit code 1"):
            processes.check()


@pytest.mark.usefixtures("impatient")
def test_finish_awaits_a_good_end_only() -> None:
    with Processes() as processes:
        good = processes.start("good", [sys.executable, "-c", "print('RUN_DIR')"])
        processes.finish([good], 300.0)
        processes.check()
        assert good.text == f"{good.run_dir}\n"
        bad = processes.start("bad", [sys.executable, "-c", "raise SystemExit(2)"])
        with pytest.raises(ProcessFailed, match="bad ended with exit code 2"):
            processes.finish([bad], 300.0)


def test_figures_of_a_process_are_read(tmp_path: Path) -> None:
    pid = os.getpid()
    assert 0 < cpu_seconds(pid) <= time.process_time() + 0.1
    assert 2**20 < memory_bytes(pid) < 2**40
    # A name may hold anything.
    path = tmp_path / "stat"
    path.write_text("42 (a) S (b) S 7 1 1 0 -1 4194560 10 0 0 0 300 20 5 5 20 0")
    assert read_stat(path) == ("a) S (b", 7, 320 / os.sysconf("SC_CLK_TCK"))


def test_so_many_updates_are_awaited(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"learner_steps": 5}\n')
    learner = cast(Process, SimpleNamespace(run_dir=tmp_path))
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        with path.open("a") as file:
            file.write(f'{{"learner_steps": {5 + looks}}}\n')

    wait_until_learning(learner, check, updates=2)
    assert '"learner_steps": 7' in path.read_text()


def test_a_window_lies_between_the_first_line_and_the_last_whole_one(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"time_s": 10.0, "env_steps": 500, "learner_steps": 1, "batch": 1000.0, "lag": 7.0}\n'
        '{"time_s": 11.0, "env_steps": 700, "learner_steps": 1, "batch": 20.0, "lag": null}\n'
        '{"time_s": 14.0, "env_steps": 1300, "learner_steps": 3, "batch": 40.0, "lag": null}\n'
        '{"time'
    )
    window = summarize_lines(read_metrics(tmp_path))
    assert (window.seconds, window.steps_per_s, window.updates_per_s) == (4.0, 200.0, 0.5)
    # The first line is of the time before.
    assert window.means["batch"] == 30.0
    assert "lag" not in window.means
    slower = window._replace(means={"batch": 10.0, "other": 1.0})
    assert median_means([window, slower, slower]) == {"batch": 10.0}
    # 0.5 cores at 200 steps/s
    assert window._replace(cores_used=0.5).cpu_us_per_step == 2500.0
