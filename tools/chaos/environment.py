"""Catch whose observations say which history and which row they are of."""

from __future__ import annotations

import os
import secrets
import time
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envservers.environments.group import Array
from envservers.tasks.catch import Catch
from tools.chaos.marks import (
    ENV_SHIFT,
    EPISODE_ROW,
    HISTORY,
    LED_HERE,
    MADE_US,
    NUM_MARKS,
    REWARD,
    ROW,
    SERVER_SHIFT,
    SERVER_VARIABLE,
)

# Numbers of the environments that this process has at present.
_numbers: set[int] = set()


def make(num_envs: int, start_us: int = 0) -> MarkedCatch:
    """`num_envs` marked boards; a function environment, "tools.chaos.environment:make".

    `start_us` is the measurement's start, by the machine's monotonic clock.
    """
    return MarkedCatch(num_envs, start_us)


class MarkedCatch(VectorEnv[Array, Array, Array]):
    """Catch with its observation flat, behind the marks of `tools.chaos.marks`.

    Observation `[NUM_MARKS + rows * columns] int64`. A reset with seeds, which a new session
    brings, starts new histories.
    """

    def __init__(self, num_envs: int, start_us: int) -> None:
        self._catch = Catch(num_envs, rows=10, columns=5)
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        board = self._catch.single_observation_space.shape
        assert board is not None
        size = NUM_MARKS + int(np.prod(board))
        self.single_observation_space = spaces.Box(-1, 2**62, (size,), np.int64)
        self.single_action_space = self._catch.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = self._catch.action_space
        self._start_us = start_us
        server = int(os.environ.get(SERVER_VARIABLE, "0"))
        self._numbers = _take_numbers(num_envs)
        self._names = [server << SERVER_SHIFT | n << ENV_SHIFT for n in self._numbers]
        self._marks = np.zeros((num_envs, NUM_MARKS), np.int64)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts every board anew, each in a new history."""
        boards, _ = self._catch.reset(seed=seed)
        self._marks[:, HISTORY] = [name | secrets.randbits(ENV_SHIFT) for name in self._names]
        self._marks[:, ROW] = 0
        everywhere = np.ones(self.num_envs, np.bool_)
        self._ended = ~everywhere
        return self._observe(boards, everywhere, self._marks[:, ROW], self._marks[:, ROW]), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of Catch."""
        boards, rewards, terminated, truncated, _ = self._catch.step(actions)
        first, self._ended = self._ended, terminated | truncated
        self._marks[:, ROW] += 1
        return self._observe(boards, first, actions, rewards), rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Leaves the boards' numbers to others."""
        _numbers.difference_update(self._numbers)

    def _observe(self, boards: Array, first: Array, actions: Array, rewards: Array) -> Array:
        marks = self._marks
        marks[:, EPISODE_ROW] = np.where(first, 0, marks[:, EPISODE_ROW] + 1)
        marks[:, LED_HERE] = np.where(first, -1, actions)
        marks[:, REWARD] = rewards
        marks[:, MADE_US] = time.monotonic_ns() // 1000 - self._start_us
        return np.concatenate([marks, boards.reshape(self.num_envs, -1).astype(np.int64)], axis=1)


def _take_numbers(count: int) -> list[int]:
    """The lowest numbers that no environment of this process has."""
    free = [n for n in range(len(_numbers) + count) if n not in _numbers][:count]
    _numbers.update(free)
    return free
