"""Faults inside the learner's process: how it ends, and what it leaves behind."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import pytest

from seed.learner import checkpoint
from tests.end_to_end.commands import Command, Start, last_known, read_metrics, wait_until

CONFIG = "configs/catch_vtrace.toml"


def _learn(
    start: Start, fault: str, run_dir: Path, *overrides: object, config: str = CONFIG
) -> Command:
    return start(
        "faulty-learner", fault, config, "--run-dir", run_dir, "--inference.address",
        "tcp://127.0.0.1:*", "--total-env-frames", 10**9, *overrides,
    )  # fmt: skip


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        # The main thread sees the learner's silence ...
        ("stall-learner", "the learner thread has made no sign of life for 8 s"),
        # ... and where no thread runs any more, the timer goes off.
        ("hold-interpreter", "Timeout (0:00:08)!"),
    ],
)
def test_a_stalled_thread_ends_the_process_with_all_stacks(
    start: Start, tmp_path: Path, fault: str, said: str
) -> None:
    learner = _learn(start, fault, tmp_path / "run", "--watchdog-s", 8)
    learner.wait_for("stalling")
    servers = _children(learner.process.pid)
    assert learner.wait() == 1, learner.text
    assert said in learner.text
    assert "backward_and_act" in learner.text, "the stack that stalls"
    assert "in supervise" in learner.text, "the main thread's stack"
    assert len(servers) == 1
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in servers))


def test_losses_that_are_nan_end_with_77(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    learner = _learn(start, "poison-losses", run_dir, "--checkpoint-interval-s", 0)
    assert learner.wait() == 77, learner.text
    assert "Traceback" not in learner.text
    assert "skipped (1 skipped so far)" in learner.text
    assert read_metrics(run_dir)[-1]["updates_skipped"] == 10
    loaded = checkpoint.load_newest(run_dir / "checkpoints")
    assert loaded is not None
    # One of the twenty good ones is tried before anything starts.
    assert loaded.state["learner_steps"] == 19


def _begins_to_save(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob(".frames-*.tmp"))


def test_a_signal_during_a_slow_save_waits_for_a_whole_checkpoint(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    learner = _learn(start, "sync-slowly", run_dir, "--checkpoint-interval-s", 0.1)
    wait_until(lambda: _begins_to_save(run_dir))
    learner.process.send_signal(signal.SIGUSR1)
    assert learner.wait() == 75, learner.text
    assert "Traceback" not in learner.text
    assert checkpoint.load_newest(run_dir / "checkpoints") is not None
    assert not _begins_to_save(run_dir)


def test_a_second_signal_leaves_at_once_and_what_was_begun_is_not_believed(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    learner = _learn(start, "sync-never", run_dir, "--watchdog-s", 0, "--log-interval-s", 0.1)
    wait_until(lambda: bool(read_metrics(run_dir)))
    learner.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _begins_to_save(run_dir))
    # Sooner, it would be taken for the same request.
    time.sleep(1.2)
    assert learner.process.poll() is None
    learner.process.send_signal(signal.SIGTERM)
    assert learner.wait() == 128 + signal.SIGTERM, learner.text
    assert _begins_to_save(run_dir)
    assert checkpoint.load_newest(run_dir / "checkpoints") is None


def test_a_signal_while_starting_ends_with_75_and_no_traceback(
    start: Start, tmp_path: Path
) -> None:
    learners = [
        start("seed-learner", CONFIG, "--run-dir", tmp_path / str(index),
              "--inference.address", "tcp://127.0.0.1:*")
        for index in range(3)
    ]  # fmt: skip
    for learner, pause_s in zip(learners, (0.0, 0.7, 1.0), strict=True):
        wait_until(partial(_catches_terminate, learner.process.pid))
        time.sleep(pause_s)
        learner.process.send_signal(signal.SIGTERM)
    for learner in learners:
        assert learner.wait() == 75, learner.text
        assert "Traceback" not in learner.text
        assert "Error" not in learner.text


def _catches_terminate(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_steps_of_the_wall_clock_change_nothing(start: Start, tmp_path: Path) -> None:
    """Each unroll is checked row by row: a wrong one would end the learner."""
    run_dir = tmp_path / "run"
    learner = _learn(start, "step-wall-clock", run_dir, "--total-env-frames", 30_000,
                     "--watchdog-s", 120, config="tests/outside/counter.toml")  # fmt: skip
    assert learner.wait() == 0, learner.text
    names = checkpoint.names(run_dir / "checkpoints")
    assert names[-1].startswith("frames-0000000003")
    # The first comes after 30 s, and one at the end.
    assert len(names) < 3, "none came before its interval"
    lines = read_metrics(run_dir)
    times = [line["time_s"] for line in lines]
    assert times == sorted(times)
    assert times[-1] < 1800, "the clock is stepped by an hour"
    assert lines[-1]["rows_dropped"] == 0
    assert last_known(lines, "histories") == 16
    assert last_known(lines, "unrolls_checked") > 2_000
    assert " left: " not in learner.text, "no session was given up"
