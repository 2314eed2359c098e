"""Catch: move a paddle under a falling ball (Osband et al. 2020, "bsuite")."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envservers.environments.group import Array


def make(num_envs: int, rows: int = 10, columns: int = 5) -> Catch:
    """`num_envs` boards of Catch; a function environment, "envservers.tasks.catch:make"."""
    return Catch(num_envs, rows, columns)


class Catch(VectorEnv[Array, Array, Array]):
    """A ball falls a row per step from a random column; the paddle on the last row catches it.

    Observation `[rows, columns] float32`: 1 at the ball and at the paddle. Actions: 0 left, 1 stay,
    2 right. When the ball is on the last row the episode terminates with reward 1 if it was caught
    and -1 if not; all other rewards are 0. An episode has `rows - 1` steps.
    """

    def __init__(self, num_envs: int, rows: int, columns: int) -> None:
        """Raises ValueError for fewer than 2 rows or than 1 column."""
        if rows < 2 or columns < 1:
            raise ValueError(f"expected rows >= 2 and columns >= 1, got {rows} and {columns}")
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = spaces.Box(0.0, 1.0, (rows, columns), np.float32)
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rows, self._columns = rows, columns
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._ball_row = np.zeros(num_envs, np.int64)
        self._ball_column = np.zeros(num_envs, np.int64)
        self._paddle = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts every board anew; `seed` is one per board, or a first one to count up from."""
        if isinstance(seed, int):
            seed = [seed + index for index in range(self.num_envs)]
        if seed is not None:
            self._generators = [np.random.default_rng(value) for value in seed]
        self._start(np.ones(self.num_envs, np.bool_))
        return self._observations(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Moves paddles, then balls; boards that had ended start anew instead."""
        over = self._ball_row == self._rows - 1
        self._paddle = np.clip(self._paddle + actions - 1, 0, self._columns - 1)
        self._ball_row += 1
        self._start(over)
        terminated = self._ball_row == self._rows - 1
        caught = self._paddle == self._ball_column
        rewards = np.where(terminated, np.where(caught, 1.0, -1.0), 0.0).astype(np.float32)
        return self._observations(), rewards, terminated, np.zeros_like(terminated), {}

    def _start(self, which: Array) -> None:
        for index in np.flatnonzero(which):
            self._ball_column[index] = self._generators[index].integers(self._columns)
        self._ball_row[which] = 0
        self._paddle[which] = self._columns // 2

    def _observations(self) -> Array:
        boards = np.zeros((self.num_envs, self._rows, self._columns), np.float32)
        index = np.arange(self.num_envs)
        boards[index, self._ball_row, self._ball_column] = 1.0
        boards[index, self._rows - 1, self._paddle] = 1.0
        return boards
