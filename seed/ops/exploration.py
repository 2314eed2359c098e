"""Epsilon-greedy exploration, with an epsilon of its own for every environment."""

from __future__ import annotations

import torch
from torch import Tensor


def epsilon_ladder(positions: Tensor, base: float, last_power: float) -> Tensor:
    """Return the epsilons of Ape-X (Horgan et al. 2018), as R2D2 uses them; positions' shape.

        epsilon_i = base ** (1 + (last_power - 1) i / (N - 1)),  i = 0 .. N - 1

    The first environment explores most. `base = 0.4, last_power = 8` are the papers'.

    positions: i / (N - 1) of each environment, float32 from 0 to 1; 0 for a single one.
    base: from 0 to 1.
    last_power: at least 1.
    """
    return torch.pow(base, 1.0 + (last_power - 1.0) * positions)


def epsilon_greedy(
    q_values: Tensor, epsilons: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Return actions [B] int64: with probability epsilon any of the A, all alike, else the best.

    A best action may also be drawn as any. Of several best ones the first is taken.

    q_values: [B, A] float32.
    epsilons: [B] float32, from 0 to 1.

    Raises ValueError on other shapes.
    """
    if q_values.dim() != 2 or tuple(epsilons.shape) != tuple(q_values.shape[:1]):
        raise ValueError(
            f"q_values must be [B, A] and epsilons [B], got {tuple(q_values.shape)} and "
            f"{tuple(epsilons.shape)}; pass one row of values and one epsilon per environment"
        )
    best = q_values.argmax(dim=-1)  # [B] int64
    # Both are drawn for every environment, so that nothing waits for the device.
    drawn = torch.empty_like(best).random_(q_values.shape[1], generator=generator)  # [B] int64
    explores = torch.empty_like(epsilons).uniform_(generator=generator) < epsilons  # [B] bool
    return torch.where(explores, drawn, best)
