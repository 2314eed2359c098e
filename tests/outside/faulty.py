"""Counter environments of which one fails, in a way that `kwargs` choose."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.outside.counter import Counter

_numbers = itertools.count()


class Faulty(Counter):
    """A counter that fails at its step number `at`; with a marker, unless that file is there."""

    def __init__(self, how: str, at: int, marker: str) -> None:
        super().__init__()
        self._how, self._at, self._marker = how, at, marker
        self._steps = 0

    def step(
        self, action: np.int64
    ) -> tuple[npt.NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self._steps == self._at and self._may_fail():
            if self._how == "raise":
                raise RuntimeError("the simulator fell over")
            if self._how == "hang":
                time.sleep(3600)
            if self._how == "exit":
                os._exit(0)
            if self._how == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            reward = float("nan")
        return observation, reward, terminated, truncated, info

    def _may_fail(self) -> bool:
        if not self._marker:
            return True
        try:
            Path(self._marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def make(how: str, at: int = 1, envs: int = 8, marker: str = "") -> Counter:
    """The last of the `envs` environments that a process makes is faulty, and what comes after it.

    So a server with fewer has none that fails, nor has one whose last is not made any more.
    """
    return Counter() if next(_numbers) < envs - 1 else Faulty(how, at, marker)
