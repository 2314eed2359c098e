"""The policies against sums over all actions, and torch's own normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from seed.networks.policy import Categorical, DiagonalGaussian, make_policy
from seed.wire.spaces import SpaceSpec


def log_probabilities(logits: Tensor) -> NDArray[np.float64]:
    """The logs of the softmax, in float64."""
    shifted = logits.numpy().astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def gaussian(parameters: Tensor) -> Distribution:
    """torch's own distribution, with the log standard deviations clamped by hand."""
    mean, log_std = parameters.chunk(2, dim=-1)
    std = torch.minimum(torch.maximum(log_std, torch.tensor(-5.0)), torch.tensor(2.0)).exp()
    return Independent(Normal(mean, std), 1)


class TestCategorical:
    @pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
    def test_matches_sums_over_the_actions(self, scale: float) -> None:
        policy = Categorical(5)
        p, q = torch.randn(2, 12, 5) * scale
        actions = torch.randint(5, (12,))
        log_p, log_q = log_probabilities(p), log_probabilities(q)
        # The rounding of float32 grows with the logits.
        tolerance = 1e-5 + 1e-6 * scale
        for row in range(12):
            terms = [math.exp(log_p[row, a]) * log_p[row, a] for a in range(5)]
            cross_terms = [math.exp(log_p[row, a]) * log_q[row, a] for a in range(5)]
            expected = {
                "log_prob": (policy.log_prob(p, actions), log_p[row, actions[row]]),
                "entropy": (policy.entropy(p), -sum(terms)),
                "kl": (policy.kl(p, q), sum(terms) - sum(cross_terms)),
            }
            for name, (actual, value) in expected.items():
                assert actual[row].item() == pytest.approx(value, rel=1e-5, abs=tolerance), name

    def test_mode_is_the_largest_logit(self) -> None:
        logits = torch.tensor([[[0.0, 3.0, 1.0]], [[-1.0, -2.0, -3.0]]])
        assert Categorical(3).mode(logits).tolist() == [[1], [0]]

    def test_divergence_from_itself_is_zero(self) -> None:
        p = torch.randn(3, 5)
        assert torch.equal(Categorical(5).kl(p, p), torch.zeros(3))

    def test_sample_has_the_probabilities(self) -> None:
        logits = torch.tensor([0.0, 1.0, -2.0, 2.0])
        count = 40_000
        generator = torch.Generator().manual_seed(0)
        actions = Categorical(4).sample(logits.expand(count, 4), generator)
        assert actions.dtype == torch.int64
        expected = logits.softmax(-1) * count
        chi_square = (torch.bincount(actions, minlength=4) - expected).square() / expected
        # The .999 quantile of chi-square with 3 degrees of freedom.
        assert chi_square.sum() < 16.27

    def test_samples_of_two_rows_are_independent(self) -> None:
        generator = torch.Generator().manual_seed(0)
        actions = Categorical(2).sample(torch.zeros(40_000, 2, 2), generator)
        assert actions.shape == (40_000, 2)
        pairs = torch.bincount(actions[:, 0] * 2 + actions[:, 1], minlength=4)
        chi_square = (pairs - 10_000).square() / 10_000
        assert chi_square.sum() < 16.27

    def test_certain_actions_are_always_drawn(self) -> None:
        logits = torch.tensor([0.0, 200.0, 0.0]).expand(1000, 3)
        assert (Categorical(3).sample(logits) == 1).all()


class TestDiagonalGaussian:
    def test_matches_torch(self) -> None:
        policy = DiagonalGaussian(3)
        p, q = torch.randn(2, 4, 5, 6) * 3
        actions = torch.randn(4, 5, 3)
        torch.testing.assert_close(policy.log_prob(p, actions), gaussian(p).log_prob(actions))
        torch.testing.assert_close(policy.entropy(p), gaussian(p).entropy())
        expected_kl = kl_divergence(gaussian(p), gaussian(q))
        torch.testing.assert_close(policy.kl(p, q), expected_kl)
        assert torch.equal(policy.mode(p), p[..., :3])

    def test_spread_is_clamped(self) -> None:
        policy = DiagonalGaussian(1)
        constant = math.log(2 * math.pi * math.e) / 2
        parameters = torch.tensor([[0.0, -99.0], [0.0, 99.0]])
        expected = torch.tensor([-5.0 + constant, 2.0 + constant])
        torch.testing.assert_close(policy.entropy(parameters), expected)

    def test_sample_has_mean_and_spread(self) -> None:
        count = 40_000
        parameters = torch.tensor([1.0, -2.0, math.log(0.5), math.log(3.0)])
        generator = torch.Generator().manual_seed(0)
        actions = DiagonalGaussian(2).sample(parameters.expand(count, 4), generator)
        assert actions.shape == (count, 2)
        scores = (actions - parameters[:2]) / torch.tensor([0.5, 3.0])
        # Four standard errors of the mean, the variance and the correlation.
        assert scores.mean(dim=0).abs().max() < 4 / math.sqrt(count)
        assert (scores.square().mean(dim=0) - 1).abs().max() < 4 * math.sqrt(2 / count)
        assert scores.prod(dim=1).mean().abs() < 4 / math.sqrt(count)

    def test_log_prob_reads_actions_of_any_shape(self) -> None:
        policy = DiagonalGaussian(6)
        parameters, actions = torch.randn(4, 12), torch.randn(4, 6)
        assert torch.equal(
            policy.log_prob(parameters, actions.reshape(4, 2, 3)),
            policy.log_prob(parameters, actions),
        )


@pytest.mark.parametrize("policy", [Categorical(3), DiagonalGaussian(2)])
def test_a_generator_repeats_its_samples(policy: Categorical | DiagonalGaussian) -> None:
    parameters = torch.zeros(64, policy.parameter_count)
    first = policy.sample(parameters, torch.Generator().manual_seed(5))
    again = policy.sample(parameters, torch.Generator().manual_seed(5))
    other = policy.sample(parameters, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_make_policy_by_space() -> None:
    discrete = make_policy(SpaceSpec("int64", (), 6))
    box = make_policy(SpaceSpec("float32", (2, 3)))
    assert isinstance(discrete, Categorical)
    assert isinstance(box, DiagonalGaussian)
    assert (discrete.parameter_count, box.parameter_count) == (6, 12)
    assert make_policy(SpaceSpec("float32", ())).parameter_count == 2


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (SpaceSpec("int64", (2,), 3), r"Discrete action must have shape \(\), got \(2,\)"),
        (SpaceSpec("int64", (4,)), r"Discrete or a Box of floats, got int64 of shape \(4,\)"),
    ],
)
def test_make_policy_refuses_other_spaces(space: SpaceSpec, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_policy(space)
