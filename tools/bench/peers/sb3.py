"""Trains Pong with Stable-Baselines3 and its own Atari wrappers; runs in that library's Python.

    python -m tools.bench.peers.sb3 {ppo,a2c} [--epochs N]

Settings are those that RL Baselines3 Zoo publishes for Atari, `hyperparams/{ppo,a2c}.yml`. Their
learning rate and clipping fall to 0 over the run, which changes no speed and is left out. Each
environment has a process of its own.
"""
# mypy: disable-error-code="import-not-found", allow-subclassing-any

from __future__ import annotations

import argparse
from typing import Any

import ale_py  # noqa: F401  Importing it registers the games, here and in the environments' processes.
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

from tools.bench.peers.marks import print_mark

_GAME = "PongNoFrameskip-v4"
_FRAME_STACK = 4
_ENDLESS_STEPS = 10**9


class _Marks(BaseCallback):
    """Says how far the training is, each time before it collects the next steps."""

    def _on_rollout_start(self) -> None:
        print_mark(self.num_timesteps)

    def _on_step(self) -> bool:
        return True


def make_model(algorithm: str, epochs: int) -> Any:
    """Returns PPO or A2C, with its environments."""
    num_envs = {"ppo": 8, "a2c": 16}[algorithm]
    envs = make_atari_env(_GAME, n_envs=num_envs, seed=1, vec_env_cls=SubprocVecEnv)
    stacked = VecFrameStack(envs, _FRAME_STACK)
    if algorithm == "a2c":
        return A2C(
            "CnnPolicy", stacked, ent_coef=0.01, vf_coef=0.25, device="cpu",
            policy_kwargs={
                "optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5},
            },
        )  # fmt: skip
    return PPO(
        "CnnPolicy", stacked, n_steps=128, n_epochs=epochs, batch_size=256, learning_rate=2.5e-4,
        clip_range=0.1, ent_coef=0.01, vf_coef=0.5, device="cpu",
    )  # fmt: skip


def main() -> None:
    """Trains until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("algorithm", choices=["ppo", "a2c"])
    parser.add_argument("--epochs", type=int, default=4, help="of PPO over each batch")
    arguments = parser.parse_args()
    make_model(arguments.algorithm, arguments.epochs).learn(_ENDLESS_STEPS, callback=_Marks())


if __name__ == "__main__":
    main()
