"""Marked Catch sleeps where it is asked to; its marks are tested with what checks them."""

from __future__ import annotations

import numpy as np
import pytest

from tools.chaos.environment import make


def test_steps_sleep_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tools.chaos.environment.time.sleep", slept.append)
    for sleep_s in (0.0, 0.04):
        environment = make(2, sleep_s=sleep_s)
        environment.reset(seed=1)
        environment.step(np.zeros(2, np.int64))
        environment.close()
    assert slept == [0.04]
