"""Rewards as an algorithm takes them: scaled, then clipped (Mnih et al. 2015, "DQN")."""

from __future__ import annotations

import math

from torch import Tensor


def shape_rewards(rewards: Tensor, scale: float, clip: float) -> Tensor:
    """Return `scale` times the rewards, clipped to plus or minus `clip`; any shape.

    clip: at least 0; 0 for no clipping.
    """
    limit = clip or math.inf
    return (rewards * scale).clamp(-limit, limit)


def is_clipped(rewards: Tensor, scale: float, clip: float) -> Tensor:
    """Return whether `shape_rewards` takes something off each reward, as bool; any shape."""
    return (rewards * scale).abs() > (clip or math.inf)
