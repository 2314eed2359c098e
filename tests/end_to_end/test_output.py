"""A learner with nowhere to print trains, obeys and ends like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seed.learner import checkpoint
from tests.end_to_end.commands import PATIENCE_S, read_metrics, wait_until
from tests.end_to_end.conftest import ROOT


@pytest.mark.parametrize(
    ("redirection", "asked", "code"),
    [("<&- >&- 2>&-", None, 0), (">/dev/full 2>&1", signal.SIGHUP, 75)],
)
def test_a_learner_that_cannot_print(
    tmp_path: Path, redirection: str, asked: int | None, code: int
) -> None:
    run_dir = tmp_path / "run"
    words = [
        sys.executable, "-m", "seed", "configs/catch_vtrace.toml", "--run-dir", run_dir,
        "--inference.address", "tcp://127.0.0.1:*", "--log-interval-s", "0.2",
        "--total-env-frames", 10**9 if asked else 20_000, "--local-envservers", 1,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *map(str, words)], cwd=ROOT, env=environment
    )
    try:
        if asked:
            wait_until(lambda: len(read_metrics(run_dir)) >= 2)
            process.send_signal(asked)
        assert process.wait(PATIENCE_S) == code
    finally:
        process.kill()
        process.wait()
    assert checkpoint.load_newest(run_dir / "checkpoints") is not None
