"""Saves checkpoints in processes that are killed at random: `FOLDER KILLS`, figures as JSON."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint
from tests.seed.checkpoints import state_of

_TENSOR_SIZE = 20_000
_MOST_SAVES = 2
_LONGEST_PAUSE_S = 0.02


def save_for_ever(folder: Path, number: int) -> None:
    """Checkpoints whose every value is their number, the next one each time."""
    while True:
        number += 1

        def save_replay(replay: Path, sign: Callable[[], None], number: int = number) -> None:
            replay.mkdir()
            (replay / "rows").write_text(str(number) * 10_000)

        tensors = {name: torch.full((_TENSOR_SIZE,), number) for name in "abc"}
        checkpoint.save(
            folder, checkpoint.name_of(number, 0), Checkpoint(tensors, state_of(number)),
            keep=2, save_replay=save_replay,
        )  # fmt: skip


def newest(folder: Path) -> int:
    """The number of the newest checkpoint, -1 where it is not what was saved."""
    loaded = checkpoint.load_newest(folder)
    if loaded is None:
        return 0
    number: int = loaded.state["env_frames"]
    assert loaded.path is not None
    replay = checkpoint.find_replay(loaded.path)
    whole = all(bool((tensor == number).all()) for tensor in loaded.tensors.values())
    whole = whole and replay is not None and (replay / "rows").read_text() == str(number) * 10_000
    return number if whole else -1


def _await_save(folder: Path, number: int) -> None:
    """Waits until the save after that of this number has begun."""
    while number and checkpoint.name_of(number, 0) not in checkpoint.names(folder):
        time.sleep(0.0005)
    # Over before it was seen, or there: either way, some time after its begin.
    after = checkpoint.name_of(number + 1, 0)
    while not any(folder.glob(".frames-*.tmp")) and after not in checkpoint.names(folder):
        time.sleep(0.0005)


def kill_often(folder: Path, kills: int) -> dict[str, int]:
    """Kills so many processes that save; returns how many saves were torn, believed, lost."""
    chance = random.Random(kills)
    figures = {"kills": kills, "torn": 0, "believed": 0, "lost": 0, "saved": 0}
    number = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            save_for_ever(folder, number)
        _await_save(folder, number + chance.randint(0, _MOST_SAVES))
        time.sleep(chance.choice((0.0, chance.uniform(0.0, _LONGEST_PAUSE_S))))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        figures["torn"] += any(folder.glob(".frames-*.tmp"))
        now = newest(folder)
        figures["believed"] += now < 0
        figures["lost"] += 0 <= now < number
        number = max(now, number)
    return {**figures, "saved": number}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(kill_often(Path(sys.argv[1]), int(sys.argv[2]))))
