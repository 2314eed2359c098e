"""Memory chain: say at the end what was shown at the start (Osband et al. 2020, "bsuite")."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envservers.environments.group import Array


def make(num_envs: int, length: int = 10) -> MemoryChain:
    """`num_envs` chains; a function environment, "envservers.tasks.memory_chain:make"."""
    return MemoryChain(num_envs, length)


class MemoryChain(VectorEnv[Array, Array, Array]):
    """A cue is shown on the first row; `length` steps later it must be named.

    Observation `[3] float32`: the cue (1 or -1 on the first row, then 0), the fraction of `length`
    that has passed, and 1 on the row that asks. The action chosen there gives reward 1 where it
    names the cue (1 for cue 1, 0 for cue -1), otherwise -1, and terminates the episode, which has
    `length + 1` steps. All other actions and rewards mean nothing. Who forgets the cue gets 0 in
    the mean, whatever the policy.
    """

    def __init__(self, num_envs: int, length: int) -> None:
        """Raises ValueError for a length below 1."""
        if length < 1:
            raise ValueError(f"expected length >= 1, got {length}")
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._length = length
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._time = np.zeros(num_envs, np.int64)
        self._cue = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts every chain anew; `seed` is one per chain, or a first one to count up from."""
        if isinstance(seed, int):
            seed = [seed + index for index in range(self.num_envs)]
        if seed is not None:
            self._generators = [np.random.default_rng(value) for value in seed]
        self._start(np.ones(self.num_envs, np.bool_))
        return self._observations(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advances every chain by a row; chains that had ended start anew instead."""
        over = self._time > self._length
        self._time += 1
        self._start(over)
        terminated = self._time > self._length
        right = actions == (self._cue > 0)
        rewards = np.where(terminated, np.where(right, 1.0, -1.0), 0.0).astype(np.float32)
        return self._observations(), rewards, terminated, np.zeros_like(terminated), {}

    def _start(self, which: Array) -> None:
        for index in np.flatnonzero(which):
            self._cue[index] = 2 * self._generators[index].integers(2) - 1
        self._time[which] = 0

    def _observations(self) -> Array:
        cue = np.where(self._time == 0, self._cue, 0)
        passed = np.minimum(self._time / self._length, 1.0)
        asks = self._time == self._length
        return np.stack([cue, passed, asks], axis=1).astype(np.float32)
