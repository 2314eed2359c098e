"""One state, reward 1 for every step, episodes of one step: all depends on how they end."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt


class OneStep(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Ends after each step, by truncation or by termination; the observation is always 1."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, truncates: bool) -> None:
        self._truncates = truncates

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(
        self, action: np.int64
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), 1.0, not self._truncates, self._truncates, {}


def make(truncates: bool) -> OneStep:
    """One environment, for `kind = "function"`."""
    return OneStep(truncates)
