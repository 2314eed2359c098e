"""Generalized advantage estimation (Schulman et al. 2016, equation 16)."""

from __future__ import annotations

import torch
from torch import Tensor

from seed.ops.decayed_sums import decayed_sums
from seed.ops.shapes import check_with_bootstrap


def gae(
    rewards: Tensor, discounts: Tensor, values: Tensor, bootstrap_value: Tensor, lambda_: float
) -> Tensor:
    """Return the advantages of the actions taken, [T, B] float32, without gradient.

    With delta_t = r_t + discount_t V_{t+1} - V_t, where V_T is the bootstrap value:

        A_t = sum_{k >= t} (prod_{t <= i < k} discount_i lambda_) delta_k

    They are constants for the losses, and so are the value targets A_t + V_t (TD(lambda)'s).

    rewards, discounts: [T, B], those that follow action t. A discount of 0 ends an episode: nothing
    after it reaches the advantages before it, while all is finite.
    values: [T, B], the value of observation t.
    bootstrap_value: [B], the value of the observation after the last action.
    lambda_: in [0, 1]; 0 is the one-step error delta_t, 1 the return to the bootstrap less V_t.

    From an episode's ending row to the next one's first there is no step. Give an ending row
    discount 0 and its own value V_t as reward, as `seed.ops.transitions` does: its own advantage is
    then 0, and after a truncation the steps before it bootstrap from the final observation.

    Raises ValueError on other shapes or a lambda_ out of its range.
    """
    _check(rewards, discounts, values, bootstrap_value, lambda_)
    with torch.no_grad():
        next_values = torch.cat([values[1:], bootstrap_value[None]])  # [T, B] float32
        deltas = rewards + discounts * next_values - values  # [T, B] float32
        return decayed_sums(deltas, lambda_ * discounts)


def _check(
    rewards: Tensor, discounts: Tensor, values: Tensor, bootstrap_value: Tensor, lambda_: float
) -> None:
    named = {"rewards": rewards, "discounts": discounts, "values": values}
    check_with_bootstrap(named, bootstrap_value)
    if not 0 <= lambda_ <= 1:
        raise ValueError(
            f"lambda_ must be from 0 to 1, got {lambda_}; 0 is the one-step error, "
            "1 the whole return"
        )
