"""What is said of skipped updates; what is done about them is with the learner's faults."""

from __future__ import annotations

import math
import time

import pytest

from seed.divergence import MOST_SKIPPED_IN_A_ROW, UpdateGuard


def test_skipped_updates_are_told_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guard = UpdateGuard()
    for number in range(MOST_SKIPPED_IN_A_ROW - 1):
        monkeypatch.setattr(time, "monotonic", lambda now_s=2.0 * number: now_s)
        assert not guard.accepts(number, {"loss": math.nan, "grad_norm": 1.0})
    assert guard.skipped == 9
    assert caplog.messages == [
        "update 0: the loss is nan, the gradient's norm 1.0; skipped (1 skipped so far)",
        "update 5: the loss is nan, the gradient's norm 1.0; skipped (6 skipped so far)",
    ]
