"""What counts as learned: seed 1 shows it, or else seeds 2 and 3 both do."""

from __future__ import annotations

from collections.abc import Callable


def reached(goal: float, train_seed: Callable[[int], float]) -> None:
    """Asserts that trainings, of which each returns what it scored, reach the goal."""
    _shown(train_seed, lambda score: score >= goal)


def stayed_below(limit: float, train_seed: Callable[[int], float]) -> None:
    """Asserts that trainings that lack what they need end below the limit."""
    _shown(train_seed, lambda score: score < limit)


def _shown(train_seed: Callable[[int], float], holds: Callable[[float], bool]) -> None:
    first = train_seed(1)
    if not holds(first):
        others = [train_seed(2), train_seed(3)]
        assert all(holds(score) for score in others), [first, *others]
