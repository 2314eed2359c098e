"""Value rescaling of R2D2 (Kapturowski et al. 2019), from Pohlen et al. 2018."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rescale(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return h(x), which squashes values of any scale; the shape and dtype of x.

        h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x

    x: float32 of any shape, values in units of reward. Gradient flows through;
    h'(0) = 1/2 + epsilon.
    epsilon: at least 0; above 0 it keeps the slope of the inverse below 1/epsilon.

    `unscale(rescale(x))` and `rescale(unscale(x))` give x back to a relative 1e-6 in float32,
    for 1e-30 <= |x| <= 1e4 and the default epsilon, and exactly for 0.

    Raises ValueError on an epsilon out of range.
    """
    _check_epsilon(epsilon)
    # sqrt(|x| + 1) - 1 as |x| / (sqrt(|x| + 1) + 1): the difference of two numbers near 1 keeps
    # no digit of an |x| under float32's 6e-8, and few of one under 1e-3. Dividing x rather than
    # |x| makes sign(x) needless, whose zero gradient would lose the slope at 0.
    return x / (torch.sqrt(x.abs() + 1.0) + 1.0) + epsilon * x


def unscale(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return the exact inverse of `rescale` at x; the shape and dtype of x.

        h^-1(x) = sign(x) (((sqrt(1 + 4 epsilon (|x| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1)

    x: float32 of any shape, rescaled values. Gradient flows through.
    epsilon: the one given to `rescale`.

    The tolerance of the round trip is `rescale`'s. Raises ValueError on an epsilon out of range.
    """
    _check_epsilon(epsilon)
    # The closed form takes 1 from a root near 1, divides the rest by 2 epsilon and takes 1 again:
    # in float32 that is up to 1e-4 off for |x| under 0.1, however small x is. For x >= 0 and
    # u = sqrt(h^-1 + 1) - 1 the equation is epsilon u^2 + (1 + 2 epsilon) u = x. Its root with a
    # sum of positive numbers below the fraction, and h^-1 = u (u + 2), subtract nothing, and
    # allow epsilon = 0. A negative x makes u, and so the result, negative.
    linear = 1.0 + 2.0 * epsilon
    u = 2.0 * x / (linear + torch.sqrt(linear**2 + 4.0 * epsilon * x.abs()))
    return u * (u.abs() + 2.0)


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon < math.inf:
        raise ValueError(
            f"epsilon must be at least 0 and finite, got {epsilon}; 1e-3 is the paper's"
        )
