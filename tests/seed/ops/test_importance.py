"""Importance weights against the paper's formula, and their properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seed.ops.importance import importance_weights

PROBABILITIES = st.lists(st.floats(1e-60, 1.0), min_size=1, max_size=20)
SIZES = st.integers(1, 10**6)
EXPONENTS = st.floats(0.0, 1.0)


def weights_as_loop(probabilities: list[float], size: int, exponent: float) -> list[float]:
    """One item after the other."""
    weights = [(1 / size * 1 / probability) ** exponent for probability in probabilities]
    return [weight / max(weights) for weight in weights]


def run(probabilities: list[float], size: int, exponent: float) -> list[float]:
    tensor = torch.tensor(probabilities, dtype=torch.float64)
    weights = importance_weights(tensor, size, exponent)
    assert weights.dtype == torch.float32
    assert tensor.tolist() == probabilities, "as it was"
    return [float(weight) for weight in weights]


@given(probabilities=PROBABILITIES, size=SIZES, exponent=EXPONENTS)
def test_matches_the_formula(probabilities: list[float], size: int, exponent: float) -> None:
    expected = weights_as_loop(probabilities, size, exponent)
    assert run(probabilities, size, exponent) == pytest.approx(expected, rel=1.2e-7, abs=1e-37)


def test_undoes_the_bias_of_sampling() -> None:
    # With exponent 1 the weighted mean over the draws is the plain mean over the items.
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    values = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    weights = importance_weights(probabilities, 4, 1.0).double()
    expected = (probabilities * weights * values).sum() / (probabilities * weights).sum()
    assert expected.item() == pytest.approx(values.mean().item())


@pytest.mark.parametrize(
    ("shape", "size", "exponent", "text"),
    [
        ((0,), 4, 0.6, r"must be \[B\] with B at least 1, got \(0,\)"),
        ((2, 3), 4, 0.6, r"must be \[B\] .* got \(2, 3\); pass one probability"),
        ((2,), 0, 0.6, "size must be at least 1, got 0"),
        ((2,), 4, -0.1, r"exponent must be at least 0, got -0\.1"),
        ((2,), 4, float("nan"), "exponent must be at least 0, got nan"),
    ],
)
def test_refuses(shape: tuple[int, ...], size: int, exponent: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        importance_weights(torch.full(shape, 0.5), size, exponent)
