"""Value rescaling against the papers' closed forms, and the round trip in float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from seed.ops.value_rescaling import rescale, unscale

Array = NDArray[np.float64]
Function = Callable[[Tensor], Tensor]

# What the docstring states of the round trip.
ROUND_TRIP_RTOL = 1e-6
EPSILONS = [1e-3, 1e-2, 1.0]


def rescale_as_written(x: Array, epsilon: float) -> Array:
    """The papers' h, term by term; in float64 good to 1e-15 in absolute terms near 0."""
    rescaled: Array = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + epsilon * x
    return rescaled


def unscale_as_written(x: Array, epsilon: float) -> Array:
    """The papers' closed inverse; in float64 good to 1e-12 in absolute terms near 0."""
    root = np.sqrt(1 + 4 * epsilon * (np.abs(x) + 1 + epsilon))
    return np.sign(x) * (((root - 1) / (2 * epsilon)) ** 2 - 1)


def magnitudes(low: float, high: float, count: int = 20001) -> Tensor:
    """Both signs, evenly spread over the exponents from 10^low to 10^high, float32."""
    positive = torch.logspace(low, high, count, dtype=torch.float64).float()
    return torch.cat([-positive.flip(0), positive])


def doubles(x: Tensor) -> Array:
    return x.detach().numpy().astype(np.float64)


def largest_relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() / expected.double() - 1.0).abs().max())


def slopes(function: Function, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return gradient


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_matches_the_closed_forms(epsilon: float) -> None:
    x = magnitudes(-4, 6)
    expected = rescale_as_written(doubles(x), epsilon)
    np.testing.assert_allclose(rescale(x, epsilon).numpy(), expected, rtol=1e-6)
    expected = unscale_as_written(doubles(x), epsilon)
    np.testing.assert_allclose(unscale(x, epsilon).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_matches_the_closed_forms_over_random_shapes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 6, size=seed % 4))
    x = torch.tensor(rng.normal(size=shape) * 10.0**seed, dtype=torch.float32)
    for function, twin in ((rescale, rescale_as_written), (unscale, unscale_as_written)):
        actual = function(x)
        assert actual.dtype == torch.float32
        assert tuple(actual.shape) == shape
        np.testing.assert_allclose(actual.numpy(), twin(doubles(x), 1e-3), rtol=1e-6, atol=1e-9)


def test_epsilon_is_the_papers_by_default() -> None:
    x = magnitudes(-3, 4, count=50)
    assert torch.equal(rescale(x), rescale(x, 1e-3))
    assert torch.equal(unscale(x), unscale(x, 1e-3))
    # h(3) = 2 - 1 + 0.003, and back.
    np.testing.assert_allclose(rescale(torch.tensor(3.0)).item(), 1.003, rtol=1e-6)
    np.testing.assert_allclose(unscale(torch.tensor(-1.003)).item(), -3.0, rtol=1e-6)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize(("low", "high"), [(-30.0, -6.0), (-6.0, 0.0), (0.0, 4.0), (4.0, 12.0)])
def test_round_trips_both_ways(low: float, high: float, epsilon: float) -> None:
    x = magnitudes(low, high)
    there_and_back = unscale(rescale(x, epsilon), epsilon)
    assert largest_relative_error(there_and_back, x) < ROUND_TRIP_RTOL
    back_and_there = rescale(unscale(x, epsilon), epsilon)
    assert largest_relative_error(back_and_there, x) < ROUND_TRIP_RTOL


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_tiny_values_are_scaled_by_the_slope_at_zero(epsilon: float) -> None:
    x = magnitudes(-30, -8, count=1001)
    slope = 0.5 + epsilon
    np.testing.assert_allclose(doubles(rescale(x, epsilon)), doubles(x) * slope, rtol=1e-6)
    np.testing.assert_allclose(doubles(unscale(x, epsilon)), doubles(x) / slope, rtol=1e-6)


def test_the_closed_forms_would_not_do_in_float32() -> None:
    x = magnitudes(-6, -2, count=101)
    root = torch.sqrt(1 + 4e-3 * (x.abs() + 1 + 1e-3))
    textbook = x.sign() * (((root - 1) / 2e-3) ** 2 - 1)
    exact = torch.tensor(unscale_as_written(doubles(x), 1e-3))
    assert (textbook.double() - exact).abs().max() > 1e-5
    assert (unscale(x).double() - exact).abs().max() < 1e-8


@pytest.mark.parametrize("function", [rescale, unscale])
def test_zero_stays_zero_and_signs_mirror(function: Function) -> None:
    assert function(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    x = magnitudes(-30, 12, count=501)
    assert torch.equal(function(-x), -function(x))
    assert (function(x) * x.sign() > 0).all()


def test_extreme_values_stay_finite() -> None:
    largest = torch.tensor([-3e38, 3e38])
    assert rescale(largest).isfinite().all()
    assert largest_relative_error(unscale(rescale(largest)), largest) < ROUND_TRIP_RTOL


def test_epsilon_zero_leaves_the_root_alone() -> None:
    x = torch.tensor([-8.0, 0.0, 3.0])
    np.testing.assert_allclose(rescale(x, 0.0).numpy(), [-2.0, 0.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(unscale(rescale(x, 0.0), 0.0).numpy(), x.numpy(), rtol=1e-6)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_gradients_are_the_slopes(epsilon: float) -> None:
    x = torch.cat([magnitudes(-8, 4, count=201), torch.zeros(1)])
    slope = 0.5 / np.sqrt(np.abs(doubles(x)) + 1) + epsilon
    actual = slopes(lambda values: rescale(values, epsilon), x)
    np.testing.assert_allclose(actual.numpy(), slope, rtol=1e-5)
    rescaled = torch.tensor(rescale_as_written(doubles(x), epsilon), dtype=torch.float32)
    inverse = slopes(lambda values: unscale(values, epsilon), rescaled)
    np.testing.assert_allclose(inverse.numpy(), 1 / slope, rtol=1e-5)


@pytest.mark.parametrize("function", [rescale, unscale])
@pytest.mark.parametrize("epsilon", [-1e-3, math.nan, math.inf])
def test_refuses_epsilon_out_of_range(
    function: Callable[[Tensor, float], Tensor], epsilon: float
) -> None:
    with pytest.raises(ValueError, match=f"epsilon must be at least 0 and finite, got {epsilon}"):
        function(torch.zeros(2), epsilon)
