"""The environment of learners that fake environment servers load: its spaces are all that counts.

In a configuration: `kind = "function"`, `id = "tools.bench.free_environments:make"`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NUM_ACTIONS = 18
Array = npt.NDArray[Any]


class FreeEnvironments(VectorEnv[Array, Array, Array]):
    """Images of `side` by `side` pixels; nobody resets or steps it."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, side: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = Box(0, 255, (side, side), np.uint8)
        self.single_action_space = Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)


def make(num_envs: int, side: int = 84) -> FreeEnvironments:
    """A group of such environments."""
    return FreeEnvironments(num_envs, side)
