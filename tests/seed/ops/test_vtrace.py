"""V-trace against the paper's explicit sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seed.ops.vtrace import VtraceReturns, vtrace

Array = NDArray[np.float64]
Inputs = dict[str, Array]


def vtrace_as_sum(
    log_rhos: Array,
    discounts: Array,
    rewards: Array,
    values: Array,
    bootstrap_value: Array,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
    lambda_: float = 1.0,
) -> tuple[Array, Array]:
    """Equation 1 of the paper, term by term, for every start s on its own."""
    length = len(rewards)
    rhos = np.exp(log_rhos)
    traces = lambda_ * np.minimum(1.0, rhos)
    all_values = np.concatenate([values, bootstrap_value[None]])
    all_vs = all_values.copy()
    for s in range(length):
        for t in range(s, length):
            error = rewards[t] + discounts[t] * all_values[t + 1] - all_values[t]
            weight = np.prod(discounts[s:t] * traces[s:t], axis=0)
            all_vs[s] += weight * np.minimum(clip_rho, rhos[t]) * error
    pg_advantages = np.minimum(clip_pg_rho, rhos) * (rewards + discounts * all_vs[1:] - values)
    return all_vs[:-1], pg_advantages


def random_inputs(seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 25)), int(rng.integers(1, 6)))
    inputs = {
        "log_rhos": rng.normal(size=shape),
        "discounts": 0.99 * (rng.random(shape) > 0.15),
        "rewards": rng.normal(size=shape),
        "values": rng.normal(size=shape) * 3,
        "bootstrap_value": rng.normal(size=shape[1:]) * 3,
    }
    return {name: array.astype(np.float32).astype(np.float64) for name, array in inputs.items()}


def run(inputs: Inputs, **settings: Any) -> VtraceReturns:
    arguments: dict[str, Any] = {
        name: torch.tensor(array, dtype=torch.float32) for name, array in inputs.items()
    }
    return vtrace(**arguments, **settings)


def assert_matches_sum(inputs: Inputs, **settings: Any) -> None:
    arguments: dict[str, Any] = inputs | settings
    vs, pg_advantages = vtrace_as_sum(**arguments)
    actual = run(inputs, **settings)
    assert {tensor.dtype for tensor in actual} == {torch.float32}
    np.testing.assert_allclose(actual.vs.numpy(), vs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actual.pg_advantages.numpy(), pg_advantages, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_rho": 2.5, "clip_pg_rho": 0.7},
        {"lambda_": 0.9, "clip_rho": 0.5},
        {"lambda_": 0.0},
        {"clip_rho": math.inf, "clip_pg_rho": math.inf},
    ],
)
def test_matches_the_sum(seed: int, settings: dict[str, float]) -> None:
    assert_matches_sum(random_inputs(seed), **settings)


@pytest.mark.parametrize("seed", range(4))
def test_extreme_ratios_stay_finite(seed: int) -> None:
    inputs = random_inputs(seed)
    signs = np.sign(inputs["log_rhos"])
    inputs["log_rhos"] = 100.0 * signs
    assert np.isfinite(run(inputs).vs.numpy()).all()
    assert_matches_sum(inputs)
    inputs["log_rhos"] = 1e30 * signs
    assert np.isfinite(run(inputs).pg_advantages.numpy()).all()


def test_no_gradient_flows() -> None:
    names = ("log_rhos", "discounts", "rewards", "values")
    tensors: dict[str, Any] = {name: torch.rand(4, 3, requires_grad=True) for name in names}
    tensors["bootstrap_value"] = torch.rand(3, requires_grad=True)
    result = vtrace(**tensors)
    assert not result.vs.requires_grad
    assert not result.pg_advantages.requires_grad


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("log_rhos", (5,), r"log_rhos must be \[T, B\].*got shape \(5,\)"),
        ("log_rhos", (0, 3), r"T at least 1, got shape \(0, 3\)"),
        ("discounts", (3, 5), r"discounts must have log_rhos' shape \(5, 3\), got \(3, 5\)"),
        ("rewards", (5, 1), r"rewards must have .* got \(5, 1\)"),
        ("values", (6, 3), r"values must have .* got \(6, 3\); pass T rows"),
        ("bootstrap_value", (1, 3), r"bootstrap_value must be \[B\] = \(3,\), got \(1, 3\)"),
    ],
)
def test_refuses_other_shapes(name: str, shape: tuple[int, ...], text: str) -> None:
    tensors: dict[str, Any] = {
        key: torch.zeros(5, 3) for key in ("log_rhos", "discounts", "rewards", "values")
    }
    tensors["bootstrap_value"] = torch.zeros(3)
    tensors[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=text):
        vtrace(**tensors)


@pytest.mark.parametrize(
    "settings",
    [{"clip_rho": 0.0}, {"clip_pg_rho": -1.0}, {"clip_rho": math.nan}, {"lambda_": 1.1}],
)
def test_refuses_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        run(random_inputs(0), **settings)
