"""Checkpoints of runs that never were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint


def state_of(env_frames: int, learner_steps: int = 0, **more: Any) -> dict[str, Any]:
    """What a checkpoint has to say of its run, and more."""
    counts = {"env_frames": env_frames, "env_steps": env_frames, "learner_steps": learner_steps}
    return {**counts, "time_s": 1.5, **more}


def name_of(number: int) -> str:
    return checkpoint.name_of(number, 0)


def sample(number: int) -> Checkpoint:
    tensors = {"a": torch.arange(3) + number, "b": torch.tensor(0.5)}
    return Checkpoint(tensors, state_of(number, spaces={"n": None}))


def save(folder: Path, number: int, *, keep: int = 3) -> Path:
    return checkpoint.save(folder, name_of(number), sample(number), keep=keep)


def save_with_replay(folder: Path, number: int) -> Path:
    def save_replay(replay: Path, sign: Callable[[], None]) -> None:
        replay.mkdir()
        (replay / "rows.npy").write_bytes(bytes(range(200)))
        (replay / "numbers.json").write_text("{}")

    name = name_of(number)
    return checkpoint.save(folder, name, sample(number), keep=3, save_replay=save_replay)


def flip(path: Path, position: int = -1) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def loaded_frames(folder: Path) -> int:
    loaded = checkpoint.load_newest(folder)
    assert loaded is not None
    frames = loaded.state["env_frames"]
    assert isinstance(frames, int)
    assert torch.equal(loaded.tensors["a"], torch.arange(3) + frames)
    return frames


def make_network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def update(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    network(inputs).square().mean().backward()
    optimizer.step()
