"""An environment whose observations say which history and row they are, to check unrolls by."""

from __future__ import annotations

import secrets
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

NUM_ACTIONS = 5


class Counter(gymnasium.Env[npt.NDArray[np.int64], np.int64]):
    """Observation: (history, row in it, row in the episode, action that led here).

    The history's number is drawn when the environment is made. The reward of a step is the row
    number in the history. Episodes have 1 to 30 steps and end by turns in the two ways.
    """

    observation_space = gymnasium.spaces.Box(-1, 2**62, (4,), np.int64)
    action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def __init__(self) -> None:
        self._history = secrets.randbits(62)
        self._row = -1
        self._episode_row = 0
        self._episode_steps = 0
        self._episodes = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            # A seed comes with a new session: what follows is another history.
            self._history, self._row = secrets.randbits(62), -1
        self._row += 1
        self._episode_row = 0
        self._episode_steps = int(self.np_random.integers(1, 31))
        self._episodes += 1
        return self._observe(-1), {}

    def step(
        self, action: np.int64
    ) -> tuple[npt.NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        self._row += 1
        self._episode_row += 1
        ended = self._episode_row == self._episode_steps
        terminated = ended and self._episodes % 2 == 0
        truncated = ended and not terminated
        return self._observe(int(action)), float(self._row), terminated, truncated, {}

    def _observe(self, action: int) -> npt.NDArray[np.int64]:
        return np.array([self._history, self._row, self._episode_row, action], np.int64)


def make() -> Counter:
    """One counter environment, for `kind = "function"`."""
    return Counter()
