"""Rewards by hand, at and beyond the bound, and with scale and bound off."""

from __future__ import annotations

import pytest
import torch

from seed.ops.reward_shaping import is_clipped, shape_rewards

REWARDS = torch.tensor([[-4.0, -0.5], [0.0, 8.0]])


@pytest.mark.parametrize(
    ("scale", "clip", "expected"),
    [(1.0, 1.0, [-1.0, -0.5, 0.0, 1.0]), (0.5, 1.0, [-1.0, -0.25, 0.0, 1.0]),
     (0.5, 0.0, [-2.0, -0.25, 0.0, 4.0]), (4.0, 3.0, [-3.0, -2.0, 0.0, 3.0])],
)  # fmt: skip
def test_rewards_are_scaled_then_clipped(scale: float, clip: float, expected: list[float]) -> None:
    shaped = shape_rewards(REWARDS, scale, clip)
    assert shaped.shape == REWARDS.shape
    assert shaped.flatten().tolist() == expected


@pytest.mark.parametrize(
    ("scale", "clip", "expected"),
    [(1.0, 1.0, [True, False, False, True]), (0.5, 2.0, [False, False, False, True]),
     (1.0, 8.0, [False] * 4), (1.0, 0.0, [False] * 4), (0.0, 1.0, [False] * 4)],
)  # fmt: skip
def test_a_reward_is_clipped_beyond_the_bound(
    scale: float, clip: float, expected: list[bool]
) -> None:
    clipped = is_clipped(REWARDS, scale, clip)
    assert clipped.flatten().tolist() == expected
    changed = shape_rewards(REWARDS, scale, clip) != REWARDS * scale
    assert torch.equal(clipped, changed)
