"""Extreme numbers in a batch: which are found, and whose they are said to be."""

from __future__ import annotations

import math

import pytest
import torch

from seed.learner.divergence import find_extremes
from seed.store.pages import NO_ENVIRONMENT
from seed.store.rows import Rows, Unroll


def ordinary(observations: torch.Tensor, part: str = "") -> Unroll:
    """Three unrolls of two rows."""
    zeros = torch.zeros(2, 3)
    flags = zeros.bool()
    return Unroll(
        Rows({part: observations}, zeros.long(), zeros.clone(), flags, flags, flags), zeros.long(),
        {"policy": torch.zeros(2, 3, 4)}, zeros.long(), torch.zeros(3, 5), torch.ones(3), 0,
    )  # fmt: skip


def found(unroll: Unroll) -> dict[str, float]:
    return find_extremes(unroll, [7, 8, NO_ENVIRONMENT], lambda env_id: f"host:{env_id}")


def test_ordinary_rows_are_nobodys_fault() -> None:
    unroll = ordinary(torch.full((2, 3, 2), 9e5))
    unroll.rows.rewards[:] = -9e5
    assert found(unroll) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int32])
def test_rewards_and_observations_are_found(dtype: torch.dtype) -> None:
    unroll = ordinary(torch.zeros(2, 3, 2, dtype=dtype))
    unroll.rows.observations[""][1, 0, 1] = -2_000_000
    unroll.rows.rewards[1, 2] = 3e38
    assert found(unroll) == {
        "observation of environment 7 (host:7)": 2e6,
        "reward of an environment of an earlier process": pytest.approx(3e38),
    }


def test_a_part_is_named() -> None:
    unroll = ordinary(torch.full((2, 3, 2), 1e7), "joints\n/left")
    assert next(iter(found(unroll))) == r"observation 'joints\n/left' of environment 7 (host:7)"


def test_what_acting_left_is_named_only_where_the_rows_are_ordinary() -> None:
    unroll = ordinary(torch.zeros(2, 3, 2))
    unroll.behaviour["policy"][0, :2] = math.nan
    unroll.agent_state[1, 2] = -math.inf
    unroll.rows.rewards[0, 0] = 1e7
    assert found(unroll) == {
        "reward of environment 7 (host:7)": 1e7,
        "recurrent state of environment 8 (host:8)": math.inf,
        "policy of environment 8 (host:8)": math.inf,
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_images_are_not_looked_at(dtype: torch.dtype) -> None:
    assert found(ordinary(torch.ones(2, 3, 84, dtype=dtype))) == {}


def test_an_environment_is_named_once() -> None:
    unroll = ordinary(torch.zeros(2, 3, 2))
    unroll.rows.rewards[0] = torch.tensor([1e8, 5e8, 1e7])
    magnitudes = find_extremes(unroll, [7, 7, 7], lambda env_id: "host")
    assert magnitudes == {"reward of environment 7 (host)": 5e8}
