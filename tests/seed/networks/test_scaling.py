"""Factors on observations, by what their space declares."""

from __future__ import annotations

import pytest
import torch

from seed.networks.scaling import observation_scale
from seed.wire.spaces import SpaceSpec


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32"])
@pytest.mark.parametrize(
    ("largest", "scale"),
    [((0,), 1.0), ((1,), 1.0), ((4,), 1 / 4), ((255,), 1 / 255), ((256,), 1.0), ((2**62,), 1.0)],
)
def test_declared_bounds_decide_whatever_the_dtype(
    dtype: str, largest: tuple[int, ...], scale: float
) -> None:
    assert observation_scale(SpaceSpec(dtype, (3,), largest=largest)) == scale


@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 1 / 255), ("bool", 1.0), ("int64", 1.0), ("float32", 1.0)]
)
def test_without_bounds_uint8_is_pixels(dtype: str, scale: float) -> None:
    assert observation_scale(SpaceSpec(dtype, (3,))) == scale


def test_each_place_of_the_last_axis_may_have_its_own() -> None:
    scale = observation_scale(SpaceSpec("uint8", (3,), largest=(1, 4, 1000)))
    assert isinstance(scale, torch.Tensor)
    assert scale.tolist() == [1.0, 0.25, 1.0]
