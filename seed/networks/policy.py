"""Action distributions: plain tensor maths over a network's parameters.

Each policy has `parameter_count`, the size of the parameters' last axis, and the same methods,
so an algorithm works with either. Every log is natural: entropies and divergences are in nats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from seed.wire.spaces import SpaceSpec

LOG_STD_MIN = -5.0
LOG_STD_MAX = 2.0


class Categorical:
    """A choice among `num_actions`, from logits [..., num_actions] float32, all finite."""

    def __init__(self, num_actions: int) -> None:
        """Takes a logit for each of `num_actions`."""
        self.parameter_count = num_actions

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions [...] int64, drawn with probability softmax(parameters)."""
        # The first of exponential clocks with rates exp(logits) to ring has just these
        # probabilities, and needs neither a normalisation nor a cumulative sum.
        clocks = torch.empty_like(parameters).exponential_(generator=generator)
        return (parameters - clocks.log()).argmax(dim=-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the likeliest actions [...] int64."""
        return parameters.argmax(dim=-1)

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return log p(action) [...] float32 of `actions` [...] int64."""
        log_probs = parameters.log_softmax(dim=-1)  # [..., num_actions] float32
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return -sum_a p(a) log p(a) [...] float32."""
        log_probs = parameters.log_softmax(dim=-1)  # [..., num_actions] float32
        return -(log_probs.exp() * log_probs).sum(dim=-1)

    def kl(self, p_parameters: Tensor, q_parameters: Tensor) -> Tensor:
        """Return KL(p || q) = sum_a p(a) (log p(a) - log q(a)) [...] float32."""
        log_p = p_parameters.log_softmax(dim=-1)  # [..., num_actions] float32
        log_q = q_parameters.log_softmax(dim=-1)  # [..., num_actions] float32
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


class DiagonalGaussian:
    """Independent normal actions, from parameters [..., 2 * action_size] float32.

    The parameters are the means, then the logs of the standard deviations, which are clamped to
    [-5, 2]. Actions are flat, [..., action_size] float32 and unbounded: the caller brings them
    to the environment's shape and bounds.
    """

    def __init__(self, action_size: int) -> None:
        """Takes a mean and a log of a deviation for each of `action_size` numbers."""
        self.parameter_count = 2 * action_size

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions [..., action_size] float32: mean + std * noise.

        The gradient flows through mean and std; detach the actions for a policy-gradient loss.
        """
        mean, log_std = _mean_and_log_std(parameters)
        noise = torch.empty_like(mean).normal_(generator=generator)  # [..., A] float32
        return mean + log_std.exp() * noise

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the means [..., action_size] float32."""
        return _mean_and_log_std(parameters)[0]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the log density [...] float32 of `actions`.

        log p(a) = -sum_i (((a_i - mean_i) / std_i)^2 / 2 + log std_i + log(2 pi) / 2)

        actions: [..., action_size], or [..., *shape] of the action space.
        """
        mean, log_std = _mean_and_log_std(parameters)
        deviations = (actions.reshape(mean.shape) - mean) * (-log_std).exp()  # [..., A] float32
        return -(deviations.square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return sum_i (log std_i + log(2 pi e) / 2) [...] float32."""
        _, log_std = _mean_and_log_std(parameters)
        return (log_std + math.log(2 * math.pi * math.e) / 2).sum(dim=-1)

    def kl(self, p_parameters: Tensor, q_parameters: Tensor) -> Tensor:
        """Return KL(p || q) [...] float32.

        sum_i (log(q_std_i / p_std_i) + (p_std_i^2 + (p_mean_i - q_mean_i)^2) / (2 q_std_i^2) - 1/2)
        """
        p_mean, p_log_std = _mean_and_log_std(p_parameters)
        q_mean, q_log_std = _mean_and_log_std(q_parameters)
        log_ratio = p_log_std - q_log_std  # [..., A] float32
        deviations = (p_mean - q_mean) * (-q_log_std).exp()  # [..., A] float32
        terms = ((2 * log_ratio).exp() + deviations.square() - 1) / 2 - log_ratio
        return terms.sum(dim=-1)


def make_policy(action: SpaceSpec) -> Categorical | DiagonalGaussian:
    """Return the policy for an action space: Categorical if Discrete, else DiagonalGaussian.

    A Box action of any shape is flattened: its action_size is the product of the shape. Raises
    ValueError for any other space.
    """
    if action.n is not None:
        if action.shape != ():
            raise ValueError(
                f"a Discrete action must have shape (), got {action.shape}; "
                "wrap the environment so that one number chooses the action"
            )
        return Categorical(action.n)
    if not action.dtype.startswith("float"):
        raise ValueError(
            f"an action must be Discrete or a Box of floats, got {action.dtype} of shape "
            f"{action.shape}; wrap the environment to give one of those"
        )
    return DiagonalGaussian(math.prod(action.shape))


def _mean_and_log_std(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = parameters.chunk(2, dim=-1)  # each [..., A] float32
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
