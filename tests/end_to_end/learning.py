"""What counts as learned: 2 of 3 seeds reach the goal; the third is tried only if needed."""

from __future__ import annotations

from collections.abc import Callable


def reached(goal: float, train_seed: Callable[[int], float]) -> list[float]:
    """Final returns of seeds 1, 2 and, where those disagree, 3; two of them reach the goal."""
    returns: list[float] = []
    for seed in (1, 2, 3):
        returns.append(train_seed(seed))
        hits = sum(r >= goal for r in returns)
        if hits == 2 or len(returns) - hits == 2:
            break
    assert sum(r >= goal for r in returns) >= 2, returns
    return returns
