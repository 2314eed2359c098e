"""Runs go on where their last checkpoint was; `test_kills.py` has those that were killed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.end_to_end.commands import Start, last_known, read_metrics, wait_until


def test_the_next_learner_waits_and_goes_on_though_the_folder_is_moved(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = ("seed-learner", "configs/catch_vtrace.toml", "--run-dir", run_dir,
                 "--total-env-frames", 10**9, "--inference.address", "tcp://127.0.0.1:*",
                 "--log-interval-s", 0.1)  # fmt: skip
    first = start(*arguments)
    wait_until(lambda: len(read_metrics(run_dir)) >= 3)
    second = start(*arguments)
    second.wait_for(f"another learner works in {run_dir}; waiting for it to end")
    assert "listening on" not in second.text
    first.process.send_signal(signal.SIGINT)
    assert first.wait() == 130, first.text
    assert "Traceback" not in first.text
    # Its checkpoint was not there yet when the second one was started.
    second.wait_for("going on from")
    second.wait_for("listening on")
    assert len(list((run_dir / "checkpoints").glob("frames-*"))) == 1
    run_dir.rename(tmp_path / "moved")
    second.wait_for("was deleted or moved; it is made anew")
    second.process.send_signal(signal.SIGTERM)
    assert second.wait() == 75, second.text
    assert len(list((run_dir / "checkpoints").glob("frames-*"))) == 1
    evaluation = start("seed-eval", run_dir, "--episodes", 10, "--json")
    assert evaluation.wait() == 0, evaluation.text
    assert '"episodes": 10' in evaluation.text


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
    # A process that ends by itself leaves no line from beyond its checkpoint.
    assert not (run_dir / "earlier").exists()
    lines = read_metrics(run_dir)
    assert last_known(lines, "replay_unrolls") >= int(held.group(1))
    assert last_known(lines, "replay_ratio") == pytest.approx(2.0, abs=0.5)
