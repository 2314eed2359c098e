"""Every unroll of a real run is checked row by row, also while servers are killed."""

from __future__ import annotations

import random
import re
import signal
import subprocess
from pathlib import Path

from tests.end_to_end.commands import Command, Start, Train, last_known, read_metrics, wait_until

CONFIG = "tests/outside/counter.toml"


def test_every_unroll_is_contiguous_and_aligned(
    train: Train,
) -> None:
    lines = train(CONFIG, "--total-env-frames", 30_000)
    assert last_known(lines, "unrolls_checked") > 2_000
    assert last_known(lines, "histories") == 16


def test_killed_servers_never_mix_two_histories(start: Start, tmp_path: Path) -> None:
    chance = random.Random(7)
    learner = start(
        "seed-learner", CONFIG, "--run-dir", tmp_path / "run", "--local-envservers", 0,
        "--inference.address", "tcp://127.0.0.1:*", "--total-env-frames", 60_000,
        "--inference.lease-s", 0.2,
    )  # fmt: skip
    address = re.search(r"tcp://\S+\d", learner.wait_for("listening on"))
    assert address is not None
    servers: list[subprocess.Popen[bytes]] = []
    kills = 0
    while learner.process.poll() is None:
        if len(servers) == 2:
            victim = servers.pop(chance.randrange(2))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            kills += 1
        while len(servers) < 2:
            servers.append(
                start(
                    "seed-envserver", "--connect", address.group(), "--num-envs", 8, "--groups", 2
                ).process
            )
        _wait_for_steps(learner, tmp_path / "run", chance.randint(500, 3_000))
    assert learner.wait() == 0, learner.text
    lines = read_metrics(tmp_path / "run")
    assert kills >= 5
    assert last_known(lines, "histories") > 16
    assert last_known(lines, "rows_dropped") > 0
    assert last_known(lines, "unrolls_checked") > 3_000


def _wait_for_steps(learner: Command, run_dir: Path, count: int) -> None:
    """Waits until the run has gone that many steps further, or has ended."""
    goal = _env_steps(run_dir) + count
    wait_until(lambda: learner.process.poll() is not None or _env_steps(run_dir) >= goal, 60)


def _env_steps(run_dir: Path) -> int:
    lines = read_metrics(run_dir)
    return int(lines[-1]["env_steps"]) if lines else 0
