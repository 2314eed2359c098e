"""Random rows, for the tests of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from seed.store.rows import Rows
from seed.wire.spaces import SpaceSpec


def random_rows(
    observation: SpaceSpec, action: SpaceSpec, shape: tuple[int, int], end_share: float
) -> tuple[Rows, Tensor]:
    """Rows as the store gives them, some ending an episode, and the actions chosen from them."""
    draws = torch.rand(shape)
    terminated = draws < end_share / 2
    truncated = ~terminated & (draws < end_share)
    ended = terminated | truncated
    first = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
    if action.n is None:
        actions = torch.randn(*shape, *action.shape)
    else:
        actions = torch.randint(action.n, shape)
    previous = torch.cat([torch.zeros_like(actions[:1]), actions[:-1]])
    previous[first] = 0
    if observation.n is None:
        observations = torch.randn(*shape, *observation.shape)
    else:
        observations = torch.randint(observation.n, shape)
    rewards = (torch.randn(shape) * 3).masked_fill(first, 0.0)
    return Rows({"": observations}, previous, rewards, terminated, truncated, first), actions
