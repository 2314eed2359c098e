"""Rows and actions off the wire: every length and value is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seed.wire import codec, messages
from seed.wire.errors import WireError
from seed.wire.spaces import SpaceSpec

SPEC = SpaceSpec("float32", (2,))


GOOD = messages.StepArrays(
    np.arange(3, dtype=np.uint64), np.zeros((3, 2), np.float32), np.zeros(3, np.float32),
    np.zeros(3, np.uint8), np.array([(2, 5, 1.0)], messages.EPISODE_DTYPE),
)  # fmt: skip


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_rows_of_another_length_are_refused(index: int, change: str) -> None:
    frames = [bytes(frame) for frame in codec.step_frames(GOOD)]
    codec.check_step(messages.Step(1, 0, 0, [*frames]), SPEC, 3)
    changed = {"longer": frames[index] + b"\x00", "shorter": frames[index][:-1], "empty": b""}
    frames[index] = changed[change]
    step = messages.Step(1, 0, 0, [*frames])
    if index == 4 and change == "empty":
        assert not len(codec.check_step(step, SPEC, 3).episodes)
        return
    with pytest.raises(WireError, match=r"expected .* bytes"):
        codec.check_step(step, SPEC, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"flags": np.array([0, 8, 0])}, "flags"),
     ({"rewards": np.array([0, np.nan, 0])}, "rewards"),
     ({"rewards": np.array([0, 0, np.inf])}, "rewards"),
     ({"episodes": np.array([(3, 1, 0.0)], messages.EPISODE_DTYPE)}, "indices below 3"),
     ({"episodes": np.array([(0, 1, np.nan)], messages.EPISODE_DTYPE)}, "finite returns"),
     ({"episodes": np.zeros(4, messages.EPISODE_DTYPE)}, "at most 3 records")],
)  # fmt: skip
def test_rows_with_impossible_values_are_refused(changes: dict[str, Any], reason: str) -> None:
    frames = codec.step_frames(GOOD._replace(**changes))
    with pytest.raises(WireError, match=reason):
        codec.check_step(messages.Step(1, 0, 0, frames), SPEC, 3)


@pytest.mark.parametrize("value", [-1, 4])
def test_discrete_observations_out_of_range_are_refused(value: int) -> None:
    frames = codec.step_frames(GOOD._replace(observations=np.array([0, 3, value])))
    with pytest.raises(WireError, match=r"0\.\.3"):
        codec.check_step(messages.Step(1, 0, 0, frames), SpaceSpec("int64", (), 4), 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_observations_that_are_no_numbers_are_refused(dtype: str, value: float) -> None:
    observations = np.zeros((3, 2), dtype)
    observations[2, 1] = value
    frames = codec.step_frames(GOOD._replace(observations=observations))
    with pytest.raises(WireError, match="observations: expected finite numbers"):
        codec.check_step(messages.Step(1, 0, 0, frames), SpaceSpec(dtype, (2,)), 3)


# A bool of another byte is neither true nor false to NumPy and torch.
@pytest.mark.parametrize("byte", [2, 128, 255])
def test_bools_of_other_bytes_are_refused(byte: int) -> None:
    spec = SpaceSpec("bool", (2,))
    frames = [bytes(frame) for frame in codec.step_frames(GOOD)]
    frames[1] = bytes([0, 1, 1, 0, 0, 1])
    checked = codec.check_step(messages.Step(1, 0, 0, [*frames]), spec, 3)
    assert checked.observations.tolist() == [[False, True], [True, False], [False, True]]
    frames[1] = bytes([0, 1, 1, 0, byte, 1])
    with pytest.raises(WireError, match="expected bools of 0 or 1"):
        codec.check_step(messages.Step(1, 0, 0, [*frames]), spec, 3)


@pytest.mark.parametrize("value", [-1, 4, 2**62])
def test_discrete_actions_out_of_range_are_refused(value: int) -> None:
    message = messages.Actions(1, 0, 0, np.array([0, 3, value]).tobytes())
    with pytest.raises(WireError, match=r"actions: expected integers in 0\.\.3"):
        codec.check_actions(message, SpaceSpec("int64", (), 4), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_no_numbers_are_refused(value: float) -> None:
    message = messages.Actions(1, 0, 0, np.array([0, value], np.float32).tobytes())
    with pytest.raises(WireError, match="actions: expected finite numbers"):
        codec.check_actions(message, SpaceSpec("float32", (2,)), 1)


def test_actions_are_checked_by_length() -> None:
    spec = SpaceSpec("float32", (2,))
    actions = np.arange(6, dtype=np.float32).reshape(3, 2)
    message = messages.Actions(1, 0, 0, actions.tobytes())
    np.testing.assert_array_equal(codec.check_actions(message, spec, 3), actions)
    with pytest.raises(WireError, match="expected 16 bytes, got 24"):
        codec.check_actions(message, spec, 2)
