"""What a group of environments is: one object that is reset and stepped as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from seed.wire.messages import EPISODE_DTYPE
from seed.wire.spaces import SpaceSpec

Array: TypeAlias = npt.NDArray[Any]

_LONGEST_REASON, _LONGEST_END = 1_900, 400


class InvalidEnvironment(ValueError):
    """An environment that cannot be run; its text is one line for the person who asked for it."""

    def __init__(self, text: str) -> None:
        """Keeps beginning and end of a text that is too long, as third parties' exceptions are."""
        if len(text) > _LONGEST_REASON:
            text = f"{text[: _LONGEST_REASON - _LONGEST_END]} […] {text[-_LONGEST_END:]}"
        super().__init__(text)


class InvalidRow(ValueError):
    """A row that an environment returned and that cannot be sent; `kind` says why in a word."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


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
        down: The environment does not run, and the row stands for nothing; None for none of them.
            `[n] bool`
        restarted: The environment has been made anew, so that its history begins with this row;
            None for none of them. `[n] bool`
    """

    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array
    first: Array
    episodes: Array
    down: Array | None = None
    restarted: Array | None = None


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


def check_row(row: GroupRow, observation: SpaceSpec) -> None:
    """Refuses a row that the learner would refuse.

    Raises:
        InvalidRow: for numbers that are not finite or out of range, and for arrays of other shapes.
    """
    n = len(row.first)
    for what, values, shape in (
        ("observations", row.observations, (n, *observation.shape)),
        ("rewards", row.rewards, (n,)),
        ("terminated", row.terminated, (n,)),
        ("truncated", row.truncated, (n,)),
    ):
        if values.shape != shape:
            raise InvalidRow("unfit", f"{what}: expected the shape {shape}, got {values.shape}")
    for what, fits, kind in (
        ("rewards", np.isfinite(row.rewards), "not finite"),
        ("observations", *fit_observations(row.observations, observation)),
    ):
        if not fits.all():
            misfit = np.flatnonzero(~fits).tolist()
            raise InvalidRow(kind, f"{what} of environments {misfit} are {kind}")


def fit_observations(observations: Array, spec: SpaceSpec) -> tuple[Array, str]:
    """Which observations can be sent, `[n] bool`, and what the others are.

    Observations of integers without an `n` always can, at no cost.
    """
    fits: Array = np.ones(len(observations), np.bool_)
    if spec.n is not None:
        fits = np.asarray((observations >= 0) & (observations < spec.n))
    elif observations.dtype.kind == "f":
        fits = np.asarray(np.isfinite(observations).reshape(len(observations), -1).all(axis=1))
    return fits, "not finite" if spec.n is None else "out of range"


def restart_seeds(seeds: Array, restarts: int) -> Array:
    """Seeds for environments that are made anew: those before may have led to the fault."""
    sequences = (np.random.SeedSequence((seed, restarts)) for seed in seeds.tolist())
    # 31 bits, as many as the learner's seeds have.
    drawn = [int(sequence.generate_state(1)[0]) >> 1 for sequence in sequences]
    return np.array(drawn, np.int64)


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

    def restart(self, indices: Array) -> None:
        """Forgets the games of these environments; the next row starts new ones. `[k] int64`"""
        self._starting = np.union1d(self._starting, indices)

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
