"""Every unroll of a real run is checked row by row, also while servers are killed."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

from tests.end_to_end.commands import Command, Start, last_known, read_metrics, wait_until

CONFIG = "tests/outside/counter.toml"
KILLS = 10


def test_killed_servers_never_mix_two_histories(start: Start, tmp_path: Path) -> None:
    chance = random.Random(7)
    learner = start(
        "seed-learner", CONFIG, "--run-dir", tmp_path / "run", "--local-envservers", 0,
        "--inference.address", "tcp://127.0.0.1:*", "--total-env-frames", 10**9,
        "--inference.lease-s", 0.2,
    )  # fmt: skip
    address = re.search(r"tcp://\S+\d", learner.wait_for("listening on"))
    assert address is not None

    def start_server() -> Command:
        return start(
            "seed-envserver", "--connect", address.group(), "--num-envs", 8, "--groups", 2
        )

    servers = [start_server(), start_server()]
    for _ in range(KILLS):
        _wait_for_steps(learner, tmp_path / "run", chance.randint(500, 3_000))
        victim = servers.pop(chance.randrange(2)).process
        victim.kill()
        victim.wait()
        servers.append(start_server())
    _wait_for_steps(learner, tmp_path / "run", 3_000)
    learner.process.send_signal(signal.SIGTERM)
    # A wrong unroll would have ended it.
    assert learner.wait() == 75, learner.text
    lines = read_metrics(tmp_path / "run")
    assert last_known(lines, "histories") > 16
    assert last_known(lines, "rows_dropped") > 0
    assert last_known(lines, "unrolls_checked") > KILLS * 500 / 8


def _wait_for_steps(learner: Command, run_dir: Path, count: int) -> None:
    """Waits until the run has gone that many steps further."""
    goal = _env_steps(run_dir) + count
    wait_until(lambda: learner.process.poll() is not None or _env_steps(run_dir) >= goal)
    assert learner.process.poll() is None, learner.text


def _env_steps(run_dir: Path) -> int:
    lines = read_metrics(run_dir)
    return int(lines[-1]["env_steps"]) if lines else 0
