"""A learner that is killed at random points goes on and plays as well; its server comes back.

`SEED_KILLS=100` makes it 100 kills, with their figures on standard output (pytest -s).
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path
from typing import NamedTuple

from seed.learner import checkpoint
from tests.end_to_end.commands import Command, Start, kept_frames, read_metrics, wait_until

KILLS = int(os.environ.get("SEED_KILLS", "2"))
ENVS = 32
INTERVAL_S = 0.3
# By hand only: a busy machine may be slow to write.
_MOST_LOST_S = 5.0


class Killed(NamedTuple):
    """What a kill cost: seconds since the checkpoint, seconds until rows came again."""

    lost_s: float
    return_s: float


class Runs:
    """One run, over the many processes that work on it."""

    def __init__(self, start: Start, run_dir: Path) -> None:
        self._start = start
        self.run_dir = run_dir
        self.address = "tcp://127.0.0.1:*"

    def learner(self, *overrides: object) -> Command:
        return self._start(
            "seed-learner", "configs/catch_vtrace.toml", "--run-dir", self.run_dir,
            "--inference.address", self.address, "--local-envservers", 0,
            "--checkpoint-interval-s", INTERVAL_S, "--log-interval-s", 0.1,
            "--total-env-frames", 10**9, *overrides,
        )  # fmt: skip

    def newest(self) -> checkpoint.Checkpoint | None:
        """What the next process goes on from, read as it reads it."""
        return checkpoint.load_newest(self.run_dir / "checkpoints")

    def train_and_kill(self, pause_s: float) -> Killed:
        """Kills a learner some time after it has rows again, and a checkpoint of them."""
        before, learner = self.newest(), self.learner()
        learner.wait_for("listening on")
        # Lines of lost work have been set aside by now.
        lines = len(read_metrics(self.run_dir))
        if before is not None:
            assert f"going on from {before.state['env_frames']} frames" in learner.text
        began_s = time.monotonic()
        wait_until(lambda: self._plays(lines))
        return_s = time.monotonic() - began_s
        frames = read_metrics(self.run_dir)[-1]["env_frames"]
        wait_until(lambda: kept_frames(self.run_dir) >= frames)
        time.sleep(pause_s)
        learner.process.kill()
        learner.process.wait()
        last, kept = read_metrics(self.run_dir)[-1], self.newest()
        kept_s = kept.state["time_s"] if kept is not None else 0.0
        return Killed(last["time_s"] - kept_s, return_s)

    def _plays(self, lines: int) -> bool:
        """Whether there are new lines in which all environments are connected and step."""
        new = read_metrics(self.run_dir)[lines:]
        return any(line["num_envs"] == ENVS and line["fps"] > 0 for line in new)


def test_a_learner_that_is_killed_always_goes_on(start: Start, tmp_path: Path) -> None:
    chance = random.Random(KILLS)
    runs = Runs(start, tmp_path / "run")
    # A port of its own for all of them: the environment server knows no other.
    first = runs.learner("--log-interval-s", 0.5)
    found = re.search(r"tcp://\S+\d", first.wait_for("listening on"))
    assert found is not None
    runs.address = found.group()
    server = start("seed-envserver", "--connect", runs.address, "--num-envs", ENVS, "--groups", 2)
    wait_until(lambda: best_return(runs.run_dir) > 0.5)
    learned = read_metrics(runs.run_dir)[-1]
    wait_until(lambda: kept_frames(runs.run_dir) >= learned["env_frames"])
    first.process.kill()
    first.process.wait()
    kills, frames = [], learned["env_frames"]
    for _ in range(KILLS - 1):
        if chance.random() < 0.2:
            _kill_while_starting(runs, chance.uniform(0.0, 4.0))
        kills.append(runs.train_and_kill(chance.uniform(0.0, 2 * INTERVAL_S)))
        newest = runs.newest()
        assert newest is not None
        assert newest.state["env_frames"] >= frames, "what was kept stays, and more is kept"
        frames = newest.state["env_frames"]
        print(f"lost {kills[-1].lost_s:.2f} s, rows again after {kills[-1].return_s:.2f} s")
    if KILLS > 2:
        assert max(kill.lost_s for kill in kills) < _MOST_LOST_S
    assert server.process.poll() is None, server.text
    last = runs.learner("--total-env-frames", frames + 30_000, "--log-interval-s", 0.5)
    assert last.wait() == 0, last.text
    lines = read_metrics(runs.run_dir)
    played = [line["env_frames"] for line in lines]
    assert played == sorted(played), "what is played again is not among the run's own lines"
    assert played[-1] >= frames + 30_000
    assert lines[-1]["learner_steps"] > learned["learner_steps"] * 0.8
    assert lines[-1]["episode_return_mean"] > 0.3


def best_return(run_dir: Path) -> float:
    returns = [line["episode_return_mean"] for line in read_metrics(run_dir)]
    return max((r for r in returns if r is not None), default=-1.0)


def _kill_while_starting(runs: Runs, pause_s: float) -> None:
    learner = runs.learner()
    time.sleep(pause_s)
    learner.process.kill()
    learner.process.wait()
