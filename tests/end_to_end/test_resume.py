"""Killed and interrupted runs go on where their last checkpoint was."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.end_to_end.commands import (
    Command,
    Start,
    kept_frames,
    last_known,
    read_metrics,
    wait_until,
)

CONFIG = "configs/catch_vtrace.toml"


def _learn(start: Start, run_dir: Path, *overrides: object) -> Command:
    return start(
        "seed-learner", CONFIG, "--run-dir", run_dir, "--checkpoint-interval-s", 0.5,
        "--log-interval-s", 0.5, *overrides,
    )  # fmt: skip


def test_a_killed_learner_goes_on_and_its_servers_come_back(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    remote = ("--local-envservers", 0, "--total-env-frames", 10**9)
    first = _learn(start, run_dir, *remote, "--inference.address", "tcp://127.0.0.1:*")
    found = re.search(r"tcp://\S+\d", first.wait_for("listening on"))
    assert found is not None
    address = found.group()
    server = start("seed-envserver", "--connect", address, "--num-envs", 32)
    wait_until(lambda: _best_return(run_dir) > 0.5)
    learned = read_metrics(run_dir)[-1]["env_frames"]
    wait_until(lambda: kept_frames(run_dir) >= learned)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    before = read_metrics(run_dir)
    second = _learn(start, run_dir, "--local-envservers", 0, "--inference.address", address,
                    "--total-env-frames", before[-1]["env_frames"] + 30_000)  # fmt: skip
    second.wait_for("going on from")
    assert second.wait() == 0, second.text
    newest = re.search(r"going on from (\d+) frames", second.text)
    assert newest is not None
    lines = read_metrics(run_dir)
    frames = [line["env_frames"] for line in lines]
    assert frames == sorted(frames), "what is played again is not among the run's own lines"
    after = [line for line in lines if line["env_frames"] > int(newest.group(1))]
    assert int(newest.group(1)) >= learned
    assert after[-1]["env_frames"] >= before[-1]["env_frames"] + 30_000
    assert after[-1]["learner_steps"] > before[-1]["learner_steps"] * 0.8
    assert after[-1]["episode_return_mean"] > 0.3
    assert server.process.poll() is None, "a remote environment server outlives its learner"


def _best_return(run_dir: Path) -> float:
    returns = [line["episode_return_mean"] for line in read_metrics(run_dir)]
    return max((r for r in returns if r is not None), default=-1.0)


def _start_endless(start: Start, run_dir: Path) -> Command:
    """A learner that has trained for some lines of metrics."""
    learner = start("seed-learner", CONFIG, "--run-dir", run_dir, "--total-env-frames", 10**9,
                    "--inference.address", "tcp://127.0.0.1:*",
                    "--log-interval-s", 0.1)  # fmt: skip
    wait_until(lambda: len(read_metrics(run_dir)) >= 3)
    return learner


def test_interrupt_leaves_a_checkpoint_that_plays(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    learner = _start_endless(start, run_dir)
    learner.process.send_signal(signal.SIGINT)
    assert learner.wait() == 130, learner.text
    assert "Traceback" not in learner.text
    assert len(list((run_dir / "checkpoints").glob("frames-*"))) == 1
    evaluation = start("seed-eval", run_dir, "--episodes", 10, "--json")
    assert evaluation.wait() == 0, evaluation.text
    assert '"episodes": 10' in evaluation.text


def test_a_second_learner_waits_for_the_first_to_end(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = _start_endless(start, run_dir)
    arguments = ("seed-learner", CONFIG, "--run-dir", run_dir, "--total-env-frames", 10**9,
                 "--inference.address", "tcp://127.0.0.1:*")  # fmt: skip
    second, third = start(*arguments), start(*arguments)
    for waiting in (second, third):
        waiting.wait_for(f"another learner works in {run_dir}; waiting for it to end")
    third.process.send_signal(signal.SIGTERM)
    assert third.wait() == 75
    assert "stopped before the training began" in third.text
    assert "listening on" not in second.text
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 75, first.text
    # Its checkpoint was not there yet when the second one was started.
    second.wait_for("going on from")
    second.wait_for("listening on")
    second.process.send_signal(signal.SIGTERM)
    assert second.wait() == 75, second.text


def test_a_run_goes_on_with_its_replay(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = ("seed-learner", "configs/memory_chain_r2d2.toml", "--run-dir", run_dir,
                 "--replay.in-checkpoint", "--replay.ratio", 2,
                 "--inference.address", "tcp://127.0.0.1:*")  # fmt: skip
    first = start(*arguments, "--total-env-frames", 6_000)
    assert first.wait() == 0, first.text
    second = start(*arguments, "--total-env-frames", 9_000)
    assert second.wait() == 0, second.text
    held = re.search(r"replay holds (\d+) unrolls", second.text)
    assert held is not None, second.text
    # 2000 rows come before the first update; those of open unrolls are lost.
    assert 2_000 <= 16 * int(held.group(1)) <= 6_000
    lines = read_metrics(run_dir)
    assert last_known(lines, "replay_unrolls") >= int(held.group(1))
    assert last_known(lines, "replay_ratio") == pytest.approx(2.0, abs=0.5)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    first = _start_endless(start, run_dir)
    first.process.kill()
    first.process.wait()
    # A slow machine may have had the time for one.
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    before = read_metrics(run_dir)
    second = start("seed-learner", CONFIG, "--run-dir", run_dir, "--total-env-frames", 2_000,
                   "--inference.address", "tcp://127.0.0.1:*")  # fmt: skip
    assert second.wait() == 0, second.text
    assert "starting from frame 0" in second.text
    assert f"left is in {run_dir / 'earlier' / '1'}" in second.text
    assert read_metrics(run_dir / "earlier" / "1")[: len(before)] == before
    assert before[0] not in read_metrics(run_dir)
    # A process that ends by itself leaves no line from beyond its checkpoint.
    third = start("seed-learner", CONFIG, "--run-dir", run_dir, "--total-env-frames", 4_000,
                  "--inference.address", "tcp://127.0.0.1:*")  # fmt: skip
    assert third.wait() == 0, third.text
    assert not (run_dir / "earlier" / "2").exists()


def test_a_run_whose_folder_is_moved_leaves_a_checkpoint_in_a_new_one(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    learner = _start_endless(start, run_dir)
    run_dir.rename(tmp_path / "moved")
    learner.wait_for("was deleted or moved; it is made anew")
    learner.process.send_signal(signal.SIGTERM)
    assert learner.wait() == 75, learner.text
    assert start("seed-eval", run_dir, "--episodes", 2).wait() == 0
