"""From rows to transitions: which reward and discount follow an action, and which pair is none."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Transitions(NamedTuple):
    """The T transitions of an unroll, each following row t's action. `[T, B]`

    Attributes:
        rewards: float32
        discounts: float32; zero into a terminated row.
        valid: Whether there was a transition at all, as 0 or 1. float32
    """

    rewards: Tensor
    discounts: Tensor
    valid: Tensor


def transitions(
    terminated: Tensor,
    truncated: Tensor,
    first: Tensor,
    rewards: Tensor,
    values: Tensor,
    discount: float,
) -> Transitions:
    """Return the transitions of T + 1 rows; the pair (ending row, first row) is made harmless.

    There, the reward is the row's own value and the discount zero, so that its target equals its
    value: the transition before it bootstraps from V of the final observation, nothing flows
    across, and its own error is zero. A first row after a row that did not end is a history that
    broke, and counts as a truncation.

    terminated, truncated, first: `[T + 1, B] bool`, of each row.
    rewards: `[T + 1, B] float32`, arrived with each row.
    values: `[T + 1, B] float32`, without gradient, in units of reward.
    discount: worth of a reward one step later (gamma).

    Raises ValueError on other shapes.
    """
    shape = tuple(rewards.shape)
    if len(shape) != 2 or shape[0] < 2:
        raise ValueError(
            f"rewards must be [T + 1, B] with T at least 1, got shape {shape}; "
            "put time first and the batch second, and the bootstrap row last"
        )
    named = {
        "terminated": terminated, "truncated": truncated, "first": first, "values": values
    }  # fmt: skip
    for name, tensor in named.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must have rewards' shape {shape}, got {tuple(tensor.shape)}; "
                "pass all T + 1 rows of each"
            )
    ended = terminated | truncated  # [T + 1, B] bool
    crosses = ended[:-1] | first[1:]
    discounts = discount * (~terminated[1:]).float()
    return Transitions(
        rewards=torch.where(crosses, values[:-1], rewards[1:]),
        discounts=discounts.masked_fill(crosses, 0.0),
        valid=(~crosses).float(),
    )
