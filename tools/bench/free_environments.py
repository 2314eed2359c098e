"""Environments that cost nothing: a few prepared images in turn, to load the learner alone.

In a configuration: `kind = "function"`, `id = "tools.bench.free_environments:make"`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NUM_ACTIONS = 18
EPISODE_STEPS = 1000
NUM_IMAGES = 4
_SEED = 0

Array = npt.NDArray[Any]


def make_images(num_envs: int, shape: tuple[int, ...]) -> Array:
    """Random images for every environment, always the same. `[NUM_IMAGES, num_envs, *shape]`"""
    rng = np.random.default_rng(_SEED)
    return rng.integers(0, 256, (NUM_IMAGES, num_envs, *shape), np.uint8)


class FreeEnvironments(VectorEnv[Array, Array, Array]):
    """Rewards of 0 and 1 in turn, whatever the actions, and episodes of `EPISODE_STEPS`."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, side: int, sleep_s: float) -> None:
        """Square images of `side` pixels; every step sleeps for so long first."""
        self.num_envs = num_envs
        self._sleep_s = sleep_s
        self.single_observation_space = Box(0, 255, (side, side), np.uint8)
        self.single_action_space = Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._images = make_images(num_envs, (side, side))
        self._never = np.zeros(num_envs, np.bool_)
        # Steps since each episode's start, which is another time in each environment. [n] int64
        self._ages = np.zeros(num_envs, np.int64)
        self._steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        """The first rows; the seed changes nothing."""
        self._ages = np.arange(self.num_envs) * EPISODE_STEPS // self.num_envs
        return self._images[0], {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """The next prepared images; the actions change nothing."""
        if self._sleep_s:
            time.sleep(self._sleep_s)
        self._steps += 1
        self._ages += 1
        # The step after an episode's last one begins the next episode.
        self._ages[self._ages > EPISODE_STEPS] = 0
        rewards = np.full(self.num_envs, self._steps % 2, np.float32)
        terminated = self._ages == EPISODE_STEPS
        return self._images[self._steps % NUM_IMAGES], rewards, terminated, self._never, {}


def make(num_envs: int, side: int = 84, sleep_s: float = 0.0) -> FreeEnvironments:
    """A group of environments with images of `side` by `side` pixels.

    Args:
        num_envs: How many.
        side: Of an image.
        sleep_s: Seconds that every step of the group sleeps, to be free of cost and yet slow.
    """
    return FreeEnvironments(num_envs, side, sleep_s)
