"""n-step targets of Q-learning, as in R2D2 (Kapturowski et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from seed.ops.shapes import check_time_batch


def n_step_targets(rewards: Tensor, discounts: Tensor, next_values: Tensor, n: int) -> Tensor:
    """Return the n-step targets, [T, B] float32, without gradient.

    With m = min(n, T - t), so that the last n - 1 targets use the shorter horizons that are left:

        target_t = sum_{k < m} (prod_{j < k} discount_{t+j}) r_{t+k}
                   + (prod_{j < m} discount_{t+j}) V_{t+m}

    rewards, discounts: [T, B] float32, those that follow action t. A discount of 0 ends an
    episode: nothing after it reaches the targets before it, while all is finite.
    next_values: [T, B] float32, in row t V_{t+1}, the value of the observation after action t; for
    double Q-learning Q-(o_{t+1}, argmax_a Q(o_{t+1}, a)), in units of reward: unscaled if the
    network learns rescaled values.
    n: at least 1, in steps.

    From an episode's ending row to the next one's first there is no step. Give an ending row
    discount 0 and its own value V_t as reward: after a truncation the targets before it then
    bootstrap from the final observation at any n. Its own target is to be masked.

    Raises ValueError on other shapes or n below 1.
    """
    _check(rewards, discounts, next_values, n)
    with torch.no_grad():
        last = next_values[-1:]  # [1, B] float32
        targets = torch.addcmul(rewards, discounts, next_values)  # [T, B] float32
        # Each turn makes every horizon one step longer. The last row has no later target to build
        # on: it starts again from its own next value, and so never looks beyond T.
        for _ in range(min(n, len(rewards)) - 1):
            targets = torch.addcmul(rewards, discounts, torch.cat([targets[1:], last]))
    return targets


def _check(rewards: Tensor, discounts: Tensor, next_values: Tensor, n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; 1 is the one-step target, R2D2 uses 5")
    named = {"rewards": rewards, "discounts": discounts, "next_values": next_values}
    check_time_batch(named, "pass T rows of each, and in row t what follows action t")
