"""Environments that do what a test tells them to, and books to keep of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envservers.environments.fault_tracker import FaultTracker
from envservers.supervision.shared_state import Supervision


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Script(gymnasium.Env[Any, Any]):
    """Observes [its number, steps of the episode]; `fails` may raise or change what it returns.

    Episodes have three steps; the reward is the step's number.
    """

    def __init__(self, number: int, fails: Callable[[Script, str], Any]) -> None:
        self.observation_space = Box(-1e9, 1e9, (2,), np.float32)
        self.action_space = Discrete(2)
        self.number, self.steps, self.steps_in_all, self.closed = number, 0, 0, False
        self.seeds: list[int | None] = []
        self._fails = fails
        fails(self, "make")

    def _observe(self, what: str) -> Any:
        changed = self._fails(self, what)
        return np.array([self.number, self.steps]) if changed is None else changed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        self.steps = 0
        return self._observe("reset"), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.steps_in_all += 1
        reward = self._fails(self, "reward")
        observation = self._observe("step")
        done = self.steps == 3
        return observation, self.steps if reward is None else reward, done, False, {}

    def close(self) -> None:
        self.closed = True
        self._fails(self, "close")


class Factory:
    """Makes scripted environments and remembers them; calls of `fails` decide their fate."""

    def __init__(self, fails: Callable[[Script, str], Any] = lambda env, what: None) -> None:
        self.made: list[Script] = []
        self.fails = fails

    def __call__(self) -> Script:
        env = Script(len(self.made), self.fails)
        self.made.append(env)
        return env


def make_tracker(
    num_units: int, clock: Clock, *, whole: bool = False, supervision: Supervision | None = None
) -> FaultTracker:
    return FaultTracker(supervision or Supervision(), 0, 0, num_units, whole=whole, clock=clock)
