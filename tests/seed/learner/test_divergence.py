"""What is said of skipped updates; what is done about them is with the learner's faults."""

from __future__ import annotations

import math
import time

import pytest

from seed.learner.divergence import MOST_SKIPPED_IN_A_ROW, Diverged, UpdateGuard


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


def test_the_largest_extremes_of_the_batches_in_a_row_are_named() -> None:
    guard = UpdateGuard()
    bad, good = ({"loss": loss, "grad_norm": 1.0} for loss in (math.nan, 1.0))
    assert not guard.accepts(1, bad, lambda: {"forgotten": 1e30})
    assert guard.accepts(1, good, lambda: pytest.fail("looked at a batch that is learned from"))
    for number in range(MOST_SKIPPED_IN_A_ROW - 1):
        guard.accepts(2, bad, {"a": 1e7 + number, f"n{number}": 10.0**number}.copy)
    with pytest.raises(Diverged) as ended:
        guard.accepts(2, bad, lambda: {"z": math.inf})
    assert "; extreme in these batches: z: inf, n8: 1e+08, a: 1e+07, n7: 1e+07 and 7 more. " in str(
        ended.value
    )
    assert "optimizer.learning_rate" not in str(ended.value)
