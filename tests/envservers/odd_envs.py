"""Environments that return odd values or break, alone, in a process each, or as a vector."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

POINT, STILL = np.zeros(2, np.float32), {"why": "wall"}


def leave() -> None:
    raise SystemExit("no licence")


def panic() -> None:
    """Raises what is no Exception, as asyncio and packages written in Rust do."""
    raise asyncio.CancelledError("panic")


def fall() -> None:
    raise ConnectionError("the simulator is gone")


# What a step returns instead, or a function that it calls. Vectors return it for each environment.
ODD_STEPS: dict[str, Any] = {
    "fall": fall,
    "leave": leave,
    "panic": panic,
    "exit": lambda: os._exit(7),
    "fork": os.fork,
    "four values": (POINT, 1.0, False, STILL),
    "no tuple": POINT,
    "long": (np.zeros(3), 1.0, False, False, STILL),
    "nested": (np.zeros((1, 2)), 1.0, False, False, STILL),
    "complex": (np.array([1j, 0]), 1.0, False, False, STILL),
    "infinite": (np.array([np.inf, 0]), 1.0, False, False, STILL),
    "nan reward": (POINT, float("nan"), False, False, STILL),
    "large reward": (POINT, 1e39, False, False, STILL),
    "nested reward": (POINT, [1.0], False, False, STILL),
    "text reward": (POINT, "much", False, False, STILL),
    "half over": (POINT, 1.0, 0.5, False, STILL),
    "text over": (POINT, 1.0, False, "no", STILL),
}
_numbers: Iterator[int]
ODD_RESETS: dict[str, Any] = {
    "no pair": POINT, "three values": (POINT, STILL, 1), "long reset": (np.zeros(3), STILL),
    "fallen": fall, "panicking": panic,
}  # fmt: skip


def begin() -> None:
    """The next environment that is made in this process is the first of a group."""
    global _numbers
    _numbers = itertools.count()


begin()


class Odd(gymnasium.Env[Any, Any]):
    """Observes its steps and its last action; the second one of a group is odd at its second step.

    Episodes have three steps, each with a reward of 1.
    """

    def __init__(self, how: str = "") -> None:
        name = multiprocessing.current_process().name
        # In a process of its own, or in turn.
        self.second = name.endswith("-1") or (name == "MainProcess" and next(_numbers) == 1)
        self.how = how if self.second else ""
        # Other bounds in each, and so another meaning of every action.
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
        odd = call(ODD_RESETS.get(self.how))
        return (self._observe(), {"map": np.zeros(2 + self.second)}) if odd is None else odd

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.last_action = float(action[0])
        odd = call(ODD_STEPS.get(self.how)) if self.steps == 2 else None
        if odd is None or self.how == "fork":
            info = {"why": "wall" if self.second else 0}
            # At its end it stays there.
            return self._observe(), 1.0, False, self.steps >= 3, info
        return odd

    def close(self) -> None:
        if self.how == "fall" and multiprocessing.parent_process() is not None:
            time.sleep(1000)


class Discreet(Odd):
    """Its observations and actions are numbers, which each counts from another one."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Discrete(4, start=-1 - self.second)
        self.action_space = Discrete(2, start=5 + self.second)

    def _observe(self) -> Any:
        return self.steps - 1 - self.second

    def step(self, action: Any) -> Any:
        assert action == (7 if self.second else 5), action
        return super().step([action])


def call(odd: Callable[[], Any] | Any) -> Any:
    return odd() if callable(odd) else odd


class OddVector(SyncVectorEnv):
    """Returns the same oddities for all its environments at once.

    Some reset themselves in the step of an end, or never; some reward a reset.
    """

    def __init__(self, num_envs: int, how: str) -> None:
        mode = AutoresetMode.SAME_STEP if how == "early reset" else AutoresetMode.NEXT_STEP
        super().__init__([Plain] * num_envs, autoreset_mode=mode)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.how, self.steps = how, 0

    def _stacked(self, parts: Any) -> Any:
        if not isinstance(parts, tuple):
            return parts
        return (*(np.array([part] * self.num_envs) for part in parts[:-1]), {})

    def reset(self, **options: Any) -> Any:
        odd = call(ODD_RESETS.get(self.how))
        return super().reset(**options) if odd is None else self._stacked(odd)

    def step(self, actions: Any) -> Any:
        self.steps += 1
        odd = call(ODD_STEPS.get(self.how)) if self.steps == 2 else None
        if odd is not None:
            return self._stacked(odd)
        if self.how == "no reset":
            self._autoreset_envs[:] = False
        observations, rewards, *rest = super().step(actions)
        return (observations, rewards + (self.how == "generous"), *rest)


class Plain(Odd):
    """Not odd, and with the same bounds in each."""

    def __init__(self) -> None:
        super().__init__()
        self.second = False
        self.observation_space = Box(-100.0, 100.0, (2,), np.float64)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)


def make_vector(num_envs: int, how: str = "") -> OddVector:
    return OddVector(num_envs, how)
