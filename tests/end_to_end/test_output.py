"""A learner with nowhere to print trains, obeys and ends like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from seed.learner import checkpoint
from tests.end_to_end.commands import PATIENCE_S, read_metrics, wait_until
from tests.end_to_end.conftest import ROOT


def test_a_learner_that_cannot_print(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [
        sys.executable, "-m", "seed", "configs/catch_vtrace.toml", "--run-dir", run_dir,
        "--inference.address", "tcp://127.0.0.1:*", "--log-interval-s", "0.2",
        "--total-env-frames", 10**9, "--local-envservers", 1,
    ]  # fmt: skip
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *map(str, words)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        wait_until(lambda: len(read_metrics(run_dir)) >= 2)
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_S) == 75
    finally:
        process.kill()
        process.wait()
    assert checkpoint.load_newest(run_dir / "checkpoints") is not None
