"""n-step targets against R2D2's explicit sum, by hand, and at an episode's end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seed.ops.n_step import n_step_targets

Array = NDArray[np.float64]
Inputs = dict[str, Array]


def targets_as_sum(rewards: Array, discounts: Array, next_values: Array, n: int) -> Array:
    """R2D2's sum, term by term, for every t on its own."""
    length = len(rewards)
    targets = np.zeros_like(rewards)
    for t in range(length):
        horizon = min(n, length - t)
        for k in range(horizon):
            targets[t] += np.prod(discounts[t : t + k], axis=0) * rewards[t + k]
        weight = np.prod(discounts[t : t + horizon], axis=0)
        targets[t] += weight * next_values[t + horizon - 1]
    return targets


def random_inputs(seed: int, scale: float = 1.0) -> Inputs:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 25)), int(rng.integers(1, 6)))
    inputs = {
        "rewards": rng.normal(size=shape) * scale,
        "discounts": rng.uniform(0.8, 1.0, size=shape) * (rng.random(shape) > 0.15),
        "next_values": rng.normal(size=shape) * 3 * scale,
    }
    return {name: array.astype(np.float32).astype(np.float64) for name, array in inputs.items()}


def run(inputs: Inputs, n: int) -> Array:
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in inputs.items()}
    return n_step_targets(**tensors, n=n).numpy().astype(np.float64)


def column(*numbers: float) -> Array:
    return np.array(numbers)[:, None]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [1, 2, 3, 5, 100])
def test_matches_the_sum(seed: int, n: int) -> None:
    inputs = random_inputs(seed)
    np.testing.assert_allclose(run(inputs, n), targets_as_sum(**inputs, n=n), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_matches_the_sum_at_extreme_scales(scale: float) -> None:
    inputs = random_inputs(3, scale)
    expected = targets_as_sum(**inputs, n=5)
    np.testing.assert_allclose(run(inputs, 5), expected, rtol=1e-5, atol=1e-5 * scale)


def test_by_hand() -> None:
    # Decimal places tell which reward or value went where; gamma 1/2 tells its powers apart.
    inputs = {
        "rewards": column(1.0, 10.0, 100.0, 1000.0),
        "discounts": column(0.5, 0.5, 0.5, 0.5),
        "next_values": column(0.25, 0.5, 8.0, 16.0),
    }
    one_step = [1 + 0.125, 10 + 0.25, 100 + 4.0, 1000 + 8.0]
    np.testing.assert_array_equal(run(inputs, 1)[:, 0], one_step)
    # V_2 for t = 0: next_values[1], by gamma squared.
    two_steps = [1 + 5 + 0.125, 10 + 50 + 2.0, 100 + 500 + 4.0, 1000 + 8.0]
    np.testing.assert_array_equal(run(inputs, 2)[:, 0], two_steps)
    three_steps = [1 + 5 + 25 + 1.0, 10 + 50 + 250 + 2.0, 100 + 500 + 4.0, 1000 + 8.0]
    np.testing.assert_array_equal(run(inputs, 3)[:, 0], three_steps)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_truncated_episode_bootstraps_from_its_final_observation(n: int) -> None:
    rng = np.random.default_rng(11)
    inputs = {name: rng.normal(size=(7, 2)) for name in ("rewards", "next_values")}
    inputs["discounts"] = np.full((7, 2), 0.9)
    # Row 4 holds the final observation, whose value is next_values[3].
    whole_episode = {name: array[:4] for name, array in inputs.items()}
    inputs["discounts"][4] = 0.0
    inputs["rewards"][4] = inputs["next_values"][3]
    inputs["rewards"][5:] += 1e6
    inputs["next_values"][4:] += 1e6
    expected = targets_as_sum(**whole_episode, n=n)
    np.testing.assert_allclose(run(inputs, n)[:4], expected, rtol=1e-5, atol=1e-5)


def test_returns_constants_and_leaves_the_inputs_alone() -> None:
    tensors: dict[str, Any] = {
        name: torch.rand(6, 3, requires_grad=True)
        for name in ("rewards", "discounts", "next_values")
    }
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    targets = n_step_targets(**tensors, n=3)
    assert targets.dtype == torch.float32
    assert tuple(targets.shape) == (6, 3)
    assert not targets.requires_grad
    for name, copy in copies.items():
        assert torch.equal(tensors[name].detach(), copy)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("rewards", (5,), r"rewards must be \[T, B\].*got shape \(5,\)"),
        ("rewards", (0, 3), r"T at least 1, got shape \(0, 3\)"),
        ("discounts", (3, 5), r"discounts must have rewards' shape \(5, 3\), got \(3, 5\)"),
        ("discounts", (5, 1), r"discounts must have .* got \(5, 1\)"),
        ("next_values", (6, 3), r"next_values must have .* got \(6, 3\); pass T rows"),
        ("next_values", (3,), r"next_values must have .* got \(3,\)"),
    ],
)
def test_refuses_other_shapes(name: str, shape: tuple[int, ...], text: str) -> None:
    tensors: dict[str, Any] = {
        key: torch.zeros(5, 3) for key in ("rewards", "discounts", "next_values")
    }
    tensors[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=text):
        n_step_targets(**tensors, n=2)


@pytest.mark.parametrize("n", [0, -1])
def test_refuses_n_below_one(n: int) -> None:
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}; 1 is the one-step"):
        run(random_inputs(0), n)
