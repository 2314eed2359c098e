"""What a group of environments is: one object that is reset and stepped as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from seed.wire import EPISODE_DTYPE, SpaceSpec

Array: TypeAlias = npt.NDArray[Any]


class InvalidEnvironment(ValueError):
    """An environment that cannot be run; its text is one line for the person who asked for it."""


@dataclass(frozen=True)
class GroupRow:
    """One new row of every environment in a group of `n`.

    Attributes:
        observations: `[n, *shape]` in the dtype of the group's observation spec; owns its memory.
        rewards: What arrived with the observations, unclipped; 0 where `first`. `[n] float32`
        terminated: The episode ended here by the task's own rules. `[n] bool`
        truncated: The episode ended here from outside, by a time limit say. `[n] bool`
        first: The row is the first of an episode. `[n] bool`
        episodes: A record per whole game that ended with this row. `[k] EPISODE_DTYPE`
    """

    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array
    first: Array
    episodes: Array


class Group(Protocol):
    """Environments that are stepped together and reset themselves on the step after an end.

    Attributes:
        observation: Form of one observation on the wire.
        action: Form of one action on the wire.
        num_envs: Number of environments, `n` below.
    """

    observation: SpaceSpec
    action: SpaceSpec
    num_envs: int

    def reset(self, seeds: Array) -> GroupRow:
        """Starts a new episode in every environment. `seeds`: non-negative, `[n] int64`."""

    def step(self, actions: Array) -> GroupRow:
        """Applies actions `[n, *action.shape]`; those of environments that had ended are ignored.

        Discrete actions must lie in 0..n-1: callers check what comes from outside.
        """

    def close(self) -> None:
        """Releases processes, windows and files; the group cannot be used afterwards."""


class EpisodeTracker:
    """Adds up the return and the length of every environment's running game."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths_steps = np.zeros(num_envs, np.int64)
        # Of environments whose next row is the first of a game. [k] int64
        self._starting = np.arange(num_envs)

    def reset(self) -> None:
        """Forgets all running games; the next row starts new ones."""
        self._starting = np.arange(len(self._returns))

    def add(self, rewards: Array, ended: Array) -> Array:
        """Counts one row of every environment.

        Args:
            rewards: What arrived with the row; not counted on the first row of a game. `[n]`
            ended: Whether a game ends with this row. `[n] bool`

        Returns:
            A record per ended game: index, steps taken, sum of rewards. `[k] EPISODE_DTYPE`
        """
        self._returns += rewards
        self._lengths_steps += 1
        if self._starting.size:
            self._returns[self._starting] = 0.0
            self._lengths_steps[self._starting] = 0
        self._starting = indices = np.flatnonzero(ended)
        episodes = np.zeros(len(indices), EPISODE_DTYPE)
        if indices.size:
            episodes["index"] = indices
            episodes["length_steps"] = self._lengths_steps[indices]
            episodes["episode_return"] = self._returns[indices]
        return episodes
