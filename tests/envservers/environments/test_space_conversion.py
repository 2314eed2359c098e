from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Tuple,
)
from gymnasium.wrappers import DtypeObservation, FlattenObservation

from envservers.environments.group import InvalidEnvironment
from envservers.environments.space_conversion import action_codec, observation_codec
from seed.wire.spaces import SpaceSpec


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32", "float64"])
def test_boxes_keep_their_dtype_but_float64(dtype: str) -> None:
    spec, encode = observation_codec(Box(0, 100, (2, 3), np.dtype(dtype).type))
    sent = "float32" if dtype == "float64" else dtype
    assert spec == SpaceSpec(sent, (2, 3))
    values = np.full((4, 2, 3), 1.1).astype(dtype)
    encoded = encode(values)
    assert encoded.dtype == sent
    np.testing.assert_array_equal(encoded, values.astype(sent))
    assert not np.shares_memory(encoded, values)


@pytest.mark.parametrize(
    ("space", "largest"),
    [
        (Box(0, 255, (4, 4), np.uint8), (255,)),
        (Box(0, 1, (3,), np.uint8), (1,)),
        (Box(0, 1, (3,), np.bool_), (1,)),  # type: ignore[arg-type]
        (Box(-9, 4, (3,), np.int32), (9,)),
        (Box(-(2**63), 2**63 - 1, (3,), np.int64), (2**62,)),
        (Box(np.zeros(3), np.array([1, 4, 255]), dtype=np.uint8), (1, 4, 255)),
        (Box(np.zeros((2, 2)), np.array([[1, 4], [1, 4]]), dtype=np.uint8), (1, 4)),
        # Not along the last axis alone: what is true of all.
        (Box(np.zeros((2, 2)), np.array([[1, 4], [1, 5]]), dtype=np.uint8), (5,)),
        (Box(np.zeros(65), np.arange(65), dtype=np.uint8), (64,)),
        (Box(0, 3, (), np.uint8), (3,)),
        (Box(0, 255, (4, 4), np.float32), (255,)),
        (Box(0, 255, (4, 4), np.float64), (255,)),
        (Box(-1, 255, (4, 4), np.float32), None),
        (Box(-np.inf, np.inf, (4,), np.float32), None),
    ],
)
def test_a_spec_has_the_largest_magnitude(
    space: Box, largest: tuple[int, ...] | None
) -> None:
    assert observation_codec(space)[0].largest == largest


def test_discrete_values_count_from_zero_on_the_wire() -> None:
    observation, encode = observation_codec(Discrete(4, start=-2))
    assert observation == SpaceSpec("int64", (), 4)
    assert encode(np.array([-2, 1])).tolist() == [0, 3]
    action, decode = action_codec(Discrete(3, start=5))
    assert action == SpaceSpec("int64", (), 3)
    assert decode(np.array([0, 2])).tolist() == [5, 7]


def test_actions_are_scaled_to_the_bounds_that_exist() -> None:
    low = np.array([-2.0, 0.0, -np.inf, 1.0], np.float32)
    high = np.array([2.0, 10.0, np.inf, np.inf], np.float32)
    spec, decode = action_codec(Box(low, high))
    assert spec == SpaceSpec("float32", (4,))
    wire = np.array([[-1, -1, -7, 0], [0, 0, 0, 1], [1, 1, 7, 5], [-9, 9, 1, 2]], np.float32)
    expected = [[-2, 0, -7, 1], [0, 5, 0, 1], [2, 10, 7, 5], [-2, 10, 1, 2]]
    actions = decode(wire)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, expected)
    widest = float(np.finfo(np.float32).max)
    for dtype in (np.float32, np.float64):
        _, decode = action_codec(Box(-widest, widest, (1,), dtype))
        actions = decode(np.array([[-1], [1]], np.float32))
        assert actions.dtype == dtype
        assert actions.tolist() == [[-widest], [widest]]


@pytest.mark.parametrize(
    "space",
    [Tuple((Discrete(2), Discrete(3))), Dict({"a": Discrete(2)}), MultiDiscrete([2, 3]),
     Box(0, 1, (2,), np.float16), Box(0, 1, (0,), np.float32),
     Box(0, 255, (4097, 4096), np.uint8)],
)  # fmt: skip
def test_other_observation_spaces_are_refused(space: gymnasium.Space[object]) -> None:
    with pytest.raises(InvalidEnvironment, match=r"observation space|cannot be sent"):
        observation_codec(space)


@pytest.mark.parametrize(
    "space", [MultiDiscrete([2, 3]), Box(0, 3, (2,), np.int64), Dict({"a": Discrete(2)})]
)
def test_other_action_spaces_are_refused(space: gymnasium.Space[object]) -> None:
    # FlattenObservation is of no use here.
    with pytest.raises(InvalidEnvironment, match=r"action space.* TransformAction"):
        action_codec(space)


@pytest.mark.parametrize(
    ("space", "wrappers"),
    [(Dict({"a": Discrete(2)}), "FlattenObservation"),
     (MultiDiscrete([2, 3]), "FlattenObservation"),
     (MultiBinary(3), "FlattenObservation and DtypeObservation, to float32"),
     (Box(0, 1, (2,), np.int8), "DtypeObservation, to float32"),
     (Sequence(Discrete(2)), "TransformObservation"),
     (Tuple([Graph(Discrete(2), None)]), "TransformObservation")],
)  # fmt: skip
def test_the_wrapper_that_is_named_helps(space: gymnasium.Space[Any], wrappers: str) -> None:
    with pytest.raises(InvalidEnvironment, match=rf"Gymnasium's {wrappers}$"):
        observation_codec(space)
    env: Any = gymnasium.Env()
    env.observation_space = space
    if "Flatten" in wrappers:
        env = FlattenObservation(env)
    if "Dtype" in wrappers:
        env = DtypeObservation(env, np.float32)
    if "Transform" not in wrappers:
        observation_codec(env.observation_space)


class Foreign:
    """A space of another package, such as gym."""

    n, start, shape, dtype = 2, 0, (), np.dtype(np.int64)


@pytest.mark.parametrize("codec", [observation_codec, action_codec])
@pytest.mark.parametrize(
    ("module", "remedy"), [("gym.spaces.discrete", "; shimmy's .*"), ("theirs", ""), ("gymx", "")]
)
def test_spaces_that_are_none_of_gymnasiums_are_refused_with_their_package(
    codec: Any, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Foreign, "__module__", module)
    expected = f"expected a space of gymnasium.spaces, got a Foreign of {module}{remedy}$"
    with pytest.raises(InvalidEnvironment, match=expected):
        codec(Foreign())
