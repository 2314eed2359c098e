"""Environments that break in a process of their own, which imports this module."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Fragile(gymnasium.Env[Any, Any]):
    """Counts its steps; the second one of a group does what `how` says at its second step."""

    def __init__(self, how: str = "") -> None:
        self.second = multiprocessing.current_process().name.endswith("-1")
        self.how = how if self.second else ""
        # Other bounds in every process, and so another meaning of every action.
        size = 2.0 if self.second else 1.0
        self.observation_space = Box(-100.0, 100.0 * size, (2,), np.float64)
        self.action_space = Box(-size, size, (1,), np.float32)
        self.steps, self.last_action = 0, 0.0
        if self.how == "make":
            raise OSError("the port is taken")

    def _observe(self) -> Any:
        return np.array([self.steps, self.last_action])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        info = {"map": np.zeros(2 if self.second else 3)}
        return self._observe(), info

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.last_action = float(action[0])
        if self.steps == 2:
            self.fail()
        info = {"why": "wall" if self.second else 0}
        done = 0.5 if self.how == "unfit" else self.steps == 3
        return self._observe(), 1.0, done, False, info

    def fail(self) -> None:
        if self.how == "exit":
            os._exit(7)
        if self.how == "raise":
            raise ConnectionError("the simulator is gone")
        if self.how == "fork":
            os.fork()
        if self.how == "leave":
            raise SystemExit("no licence")

    def close(self) -> None:
        if self.how == "raise":
            time.sleep(1000)


class Discreet(Fragile):
    """Its observations are numbers from -1."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Discrete(4, start=-1)
        self.action_space = Discrete(2, start=5)

    def _observe(self) -> Any:
        return self.steps - 1

    def step(self, action: Any) -> Any:
        assert action in (5, 6), action
        return super().step([action])
