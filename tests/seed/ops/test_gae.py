"""Advantages against the paper's explicit sum, by hand over an episode's end, and at both lambdas.

The end of an episode is checked through `transitions`, as algorithms use the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seed.ops.gae import gae
from seed.ops.transitions import transitions
from seed.ops.vtrace import vtrace

Array = NDArray[np.float64]
Inputs = dict[str, Array]
LAMBDAS = [0.0, 0.5, 0.95, 1.0]
SEEDS = st.integers(0, 2**32 - 1)


def gae_as_sum(
    rewards: Array, discounts: Array, values: Array, bootstrap_value: Array, lambda_: float
) -> Array:
    """Equation 16 of the paper, term by term, with a discount of its own at every step."""
    all_values = np.concatenate([values, bootstrap_value[None]])
    advantages = np.zeros_like(rewards)
    for t in range(len(rewards)):
        for k in range(t, len(rewards)):
            delta = rewards[k] + discounts[k] * all_values[k + 1] - all_values[k]
            advantages[t] += np.prod(discounts[t:k] * lambda_, axis=0) * delta
    return advantages


def random_inputs(seed: int) -> Inputs:
    """Exactly representable in float32."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 25)), int(rng.integers(1, 6)))
    inputs = {
        "rewards": rng.normal(size=shape),
        "discounts": 0.99 * (rng.random(shape) > 0.15),
        "values": rng.normal(size=shape) * 3,
        "bootstrap_value": rng.normal(size=shape[1:]) * 3,
    }
    return {name: array.astype(np.float32).astype(np.float64) for name, array in inputs.items()}


def run(inputs: Inputs, lambda_: float) -> Array:
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in inputs.items()}
    advantages = gae(**tensors, lambda_=lambda_)
    assert advantages.dtype == torch.float32
    return advantages.double().numpy()


def assert_close(actual: Array, expected: Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@given(seed=SEEDS, lambda_=st.floats(0, 1))
def test_matches_the_sum(seed: int, lambda_: float) -> None:
    inputs = random_inputs(seed)
    assert_close(run(inputs, lambda_), gae_as_sum(**inputs, lambda_=lambda_))


@given(SEEDS)
def test_with_lambda_0_it_is_the_error_of_one_step(seed: int) -> None:
    inputs = random_inputs(seed)
    next_values = np.concatenate([inputs["values"][1:], inputs["bootstrap_value"][None]])
    errors = inputs["rewards"] + inputs["discounts"] * next_values - inputs["values"]
    assert_close(run(inputs, 0.0), errors)


@given(SEEDS)
def test_with_lambda_1_it_is_the_return_less_the_value(seed: int) -> None:
    inputs = random_inputs(seed)
    returns = [inputs["bootstrap_value"]]
    for reward, discount in zip(inputs["rewards"][::-1], inputs["discounts"][::-1], strict=True):
        returns.append(reward + discount * returns[-1])
    assert_close(run(inputs, 1.0), np.stack(returns[:0:-1]) - inputs["values"])


@given(SEEDS, st.sampled_from(LAMBDAS))
def test_true_values_leave_no_advantage(seed: int, lambda_: float) -> None:
    """With rewards such that every value is exact, whatever the values are."""
    inputs = random_inputs(seed)
    next_values = np.concatenate([inputs["values"][1:], inputs["bootstrap_value"][None]])
    inputs["rewards"] = inputs["values"] - inputs["discounts"] * next_values
    assert_close(run(inputs, lambda_), np.zeros_like(inputs["values"]))


@given(SEEDS, st.sampled_from(LAMBDAS))
def test_nothing_crosses_the_end_of_an_episode(seed: int, lambda_: float) -> None:
    """What precedes a discount of 0 is the same bit for bit, whatever follows it."""
    inputs = random_inputs(seed)
    end = len(inputs["rewards"]) // 2
    inputs["discounts"][end] = 0.0
    before = run(inputs, lambda_)
    for name in ("rewards", "values"):
        inputs[name][end + 1 :] += 7.0
    inputs["bootstrap_value"] += 7.0
    np.testing.assert_array_equal(run(inputs, lambda_)[: end + 1], before[: end + 1])


@given(SEEDS, st.sampled_from(LAMBDAS))
def test_is_v_trace_where_the_acting_policy_is_the_learned_one(seed: int, lambda_: float) -> None:
    inputs = random_inputs(seed)
    tensors: dict[str, Any] = {
        name: torch.tensor(array, dtype=torch.float32) for name, array in inputs.items()
    }
    returns = vtrace(torch.zeros_like(tensors["rewards"]), **tensors, lambda_=lambda_)
    advantages = run(inputs, lambda_)
    assert_close(advantages, (returns.vs - tensors["values"]).double().numpy())
    if lambda_ == 1:
        assert_close(advantages, returns.pg_advantages.double().numpy())


# Four rows: rows 1 and 2 bring a reward of 1, row 2 ends an episode, row 3 is the next one's first.
REWARDS, VALUES = [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 10.0, 5.0]
DISCOUNT, LAMBDA = 0.9, 0.95


def advantages_of(ending: str) -> list[float]:
    """Of the three pairs of rows, as an algorithm computes them."""
    rows = {"terminated": -1, "truncated": -1, ending: 2, "first": 3}
    flags = {name: torch.arange(4)[:, None] == row for name, row in rows.items()}
    rewards, values = torch.tensor(REWARDS)[:, None], torch.tensor(VALUES)[:, None]
    steps = transitions(**flags, rewards=rewards, values=values, discount=DISCOUNT)
    advantages = gae(steps.rewards, steps.discounts, values[:-1], values[-1], LAMBDA)
    found: list[float] = advantages[:, 0].tolist()
    return found


@pytest.mark.parametrize(
    ("ending", "expected"), [("truncated", [9.55, 10, 0]), ("terminated", [1.855, 1, 0])]
)
def test_over_the_end_of_an_episode(ending: str, expected: list[float]) -> None:
    assert advantages_of(ending) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ending", "mistake", "expected"),
    [
        # A truncation taken for a termination.
        ("truncated", {"rewards": [1, 1, 10], "discounts": [0.9, 0, 0]}, [1.855, 1, 0]),
        # The value of the next episode's first observation in the place of the final one's.
        ("truncated", {"values": [0, 0, 5], "rewards": [1, 1, 5]}, [5.7025, 5.5, 0]),
        # The pair that is no step taken for one, ended by both flags, or by termination alone.
        ("truncated", {"rewards": [1, 1, 0], "discounts": [0.9, 0, 0.9]}, [1.855, 1, -5.5]),
        ("terminated", {"rewards": [1, 1, 0], "discounts": [0.9, 0, 0.9]}, [1.855, 1, -5.5]),
        ("truncated", {"rewards": [1, 1, 0], "discounts": [0.9] * 3}, [5.52936, 5.2975, -5.5]),
    ],
)
def test_mistakes_over_the_end_of_an_episode_show(
    ending: str, mistake: dict[str, list[float]], expected: list[float]
) -> None:
    """Each gives the figures that are known for it, and others than the right ones."""
    right = {"rewards": [1, 1, 10], "discounts": [0.9, 0.9, 0], "values": VALUES[:-1]}
    columns = {name: np.array(column)[:, None] for name, column in (right | mistake).items()}
    wrong = run({**columns, "bootstrap_value": np.array(VALUES[-1:])}, LAMBDA)[:, 0].tolist()
    assert wrong == pytest.approx(expected, rel=1e-4)
    assert wrong != pytest.approx(advantages_of(ending), rel=1e-2)


def test_no_gradient_flows() -> None:
    """Advantages weigh the policy's gradient; through them the value would learn from it, too."""
    tensors = {name: torch.rand(4, 3, requires_grad=True)
               for name in ("rewards", "discounts", "values")}  # fmt: skip
    tensors["bootstrap_value"] = torch.rand(3, requires_grad=True)
    assert not gae(**tensors, lambda_=0.9).requires_grad


def test_leaves_its_inputs_alone() -> None:
    inputs = random_inputs(1)
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in inputs.items()}
    gae(**tensors, lambda_=0.9)
    assert all((tensors[name].numpy() == array).all() for name, array in inputs.items())


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("rewards", (5,), r"rewards must be \[T, B\].*got shape \(5,\)"),
        ("rewards", (0, 3), r"T at least 1, got shape \(0, 3\)"),
        ("discounts", (3, 5), r"discounts must have rewards' shape \(5, 3\), got \(3, 5\)"),
        ("values", (6, 3), r"values must have .* got \(6, 3\); pass T rows"),
        ("bootstrap_value", (1, 3), r"bootstrap_value must be \[B\] = \(3,\), got \(1, 3\)"),
    ],
)
def test_refuses_other_shapes(name: str, shape: tuple[int, ...], text: str) -> None:
    tensors: dict[str, Any] = {
        key: torch.zeros(5, 3) for key in ("rewards", "discounts", "values")
    }
    tensors["bootstrap_value"] = torch.zeros(3)
    tensors[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=text):
        gae(**tensors, lambda_=0.95)


@pytest.mark.parametrize("lambda_", [-0.1, 1.1, float("nan")])
def test_refuses_lambda_out_of_range(lambda_: float) -> None:
    with pytest.raises(ValueError, match=r"lambda_ must be from 0 to 1"):
        run(random_inputs(0), lambda_)
