"""The ladder of epsilons against NumPy's, and how often each action is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seed.ops.exploration import epsilon_greedy, epsilon_ladder

COUNT = 40_000


@pytest.mark.parametrize("num_envs", [1, 2, 640])
def test_ladder_is_evenly_spaced_in_the_power(num_envs: int) -> None:
    positions = torch.linspace(0.0, 1.0, num_envs)
    epsilons = epsilon_ladder(positions, base=0.4, last_power=8.0)
    assert epsilons.dtype == torch.float32
    expected = 0.4 ** np.linspace(1, 8, num_envs)
    np.testing.assert_allclose(epsilons.numpy(), expected, rtol=2e-6)


@pytest.mark.parametrize(("base", "last_power"), [(0.0, 8.0), (1.0, 8.0), (0.3, 1.0)])
def test_ladder_at_the_ends_of_its_ranges(base: float, last_power: float) -> None:
    epsilons = epsilon_ladder(torch.linspace(0.0, 1.0, 5), base, last_power)
    np.testing.assert_allclose(epsilons.numpy(), base, rtol=1e-6)


def draw(epsilon: float, seed: int = 0) -> torch.Tensor:
    """How often each of 4 actions is chosen, of which the third is best. `[4] int64`"""
    q_values = torch.tensor([-3.0, 0.5, 2.0, 1.9]).expand(COUNT, 4)
    actions = epsilon_greedy(
        q_values, torch.full((COUNT,), epsilon), torch.Generator().manual_seed(seed)
    )
    assert actions.dtype == torch.int64
    return torch.bincount(actions, minlength=4)


@pytest.mark.parametrize("epsilon", [0.05, 0.4, 1.0])
def test_any_action_is_drawn_with_probability_epsilon(epsilon: float) -> None:
    expected = torch.full((4,), epsilon / 4)
    expected[2] += 1.0 - epsilon
    chi_square = (draw(epsilon) - COUNT * expected).square() / (COUNT * expected)
    # The .999 quantile of chi-square with 3 degrees of freedom.
    assert chi_square.sum() < 16.27


def test_every_row_has_its_own_epsilon_and_best_action() -> None:
    q_values = torch.eye(3).repeat(COUNT, 1)
    epsilons = torch.tensor([0.0, 0.6, 0.0]).repeat(COUNT)
    actions = epsilon_greedy(q_values, epsilons, torch.Generator().manual_seed(0))
    best = torch.arange(3).repeat(COUNT)
    shares = (actions == best).float().view(COUNT, 3).mean(dim=0)
    assert shares[[0, 2]].tolist() == [1.0, 1.0]
    # The standard error is 0.0024.
    assert shares[1].item() == pytest.approx(0.4 + 0.6 / 3, abs=0.01)


def test_of_several_best_actions_the_first_is_taken() -> None:
    q_values = torch.tensor([[1.0, 4.0, 4.0], [2.0, 2.0, 2.0]])
    assert epsilon_greedy(q_values, torch.zeros(2)).tolist() == [1, 0]


def test_a_generator_repeats_its_draws() -> None:
    assert torch.equal(draw(0.5, seed=5), draw(0.5, seed=5))
    assert not torch.equal(draw(0.5, seed=5), draw(0.5, seed=6))


@pytest.mark.parametrize(
    ("q_shape", "epsilon_shape"), [((3,), (3,)), ((1, 3, 2), (1,)), ((3, 2), (2,)), ((3, 2), ())]
)
def test_refuses_other_shapes(q_shape: tuple[int, ...], epsilon_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"q_values must be \[B, A\] and epsilons \[B\], got "):
        epsilon_greedy(torch.zeros(q_shape), torch.zeros(epsilon_shape))
