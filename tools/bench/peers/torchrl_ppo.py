"""Trains Pong with the PPO program that comes in TorchRL's wheel; runs in that library's Python.

    python -m tools.bench.peers.torchrl_ppo [--epochs N]

The program is `sota-implementations/ppo/ppo_atari.py`. The wheel leaves its settings out, so they
are here, as published in the same folder of the library's repository, without evaluation.
"""
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import ale_py  # noqa: F401  Importing it registers the games.
import torch
import tqdm
from omegaconf import OmegaConf

from tools.bench.peers.marks import print_mark

_ENDLESS_FRAMES = 10**10
# A negative interval never comes round; a long one would begin with an evaluation.
_NEVER = -(10**12)


class _Marks:
    """In place of the program's progress bar: says how far it is, each time it has collected."""

    def __init__(self, total: int) -> None:
        self._steps = 0

    def update(self, steps: int) -> None:
        """Takes the steps since the last call; what came before has been learned from."""
        print_mark(self._steps)
        self._steps += steps


def settings(epochs: int) -> dict[str, Any]:
    """Returns the published settings; frames where they count frames."""
    return {
        "env": {"env_name": "PongNoFrameskip-v4", "num_envs": 8, "backend": "gymnasium"},
        "collector": {"frames_per_batch": 4096, "total_frames": _ENDLESS_FRAMES},
        "logger": {
            "backend": None, "exp_name": "", "project_name": "", "group_name": None,
            "test_interval": _NEVER, "num_test_episodes": 1, "video": False,
        },
        "optim": {
            "lr": 2.5e-4, "eps": 1e-6, "weight_decay": 0.0, "max_grad_norm": 0.5,
            "anneal_lr": True, "device": "cpu",
        },
        "loss": {
            "gamma": 0.99, "mini_batch_size": 1024, "ppo_epochs": epochs, "gae_lambda": 0.95,
            "clip_epsilon": 0.1, "anneal_clip_epsilon": True, "critic_coeff": 1.0,
            "entropy_coeff": 0.01, "loss_critic_type": "l2",
        },
        "compile": {"compile": False, "compile_mode": None, "cudagraphs": False},
    }  # fmt: skip


def declare_operators() -> torch.library.Library:
    """Lets torchvision be imported where its compiled part does not suit this torch.

    That is so with a CPU build of torch and a build of torchvision that needs CUDA. TorchRL takes
    only resizing from it, which is written in Python.

    Returns:
        What holds the declarations; they are gone with it.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def main() -> None:
    """Trains until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3, help="over each batch")
    arguments = parser.parse_args()
    operators = None if torch.version.cuda else declare_operators()
    package = importlib.util.find_spec("torchrl")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parents[1] / "sota-implementations" / "ppo"
    sys.path.insert(0, str(folder))
    tqdm.tqdm = _Marks
    # Without the decorator, which would look for the settings that are not there.
    program = importlib.import_module("ppo_atari").main.__wrapped__
    program(OmegaConf.create(settings(arguments.epochs)))
    del operators


if __name__ == "__main__":
    main()
