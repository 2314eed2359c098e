"""Rows and actions off the wire: every length and value is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from seed.wire import codec, messages
from seed.wire.errors import WireError
from seed.wire.spaces import SpaceSpec
from tests.seed.wire.malformed import Malformed, wrong_rows

SPEC, DISCRETE = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 4)
GOOD = messages.StepArrays(
    np.arange(3, dtype=np.uint64), np.zeros((3, 2), np.float32), np.zeros(3, np.float32),
    np.zeros(3, np.uint8), np.array([(2, 5, 1.0)], messages.EPISODE_DTYPE),
)  # fmt: skip
FRAMES = [bytes(frame) for frame in codec.step_frames(GOOD)]
WRONG = wrong_rows(FRAMES, 3)


def check(frames: list[bytes], spec: SpaceSpec) -> messages.StepArrays:
    return codec.check_step(messages.Step(1, 0, 0, frames), spec, 3)


def test_good_rows_are_not_refused() -> None:
    assert len(check(FRAMES, SPEC).episodes) == 1
    assert not len(check([*FRAMES[:4], b""], SPEC).episodes)


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_rows_are_refused(case: Malformed) -> None:
    with pytest.raises(WireError, match=case.reason):
        check(case.frames, SPEC)


NUMBERS = [(dtype, value) for dtype in ("float32", "float64")
           for value in (np.nan, np.inf, -np.inf)]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "wrong", "reason"),
    [
        *((DISCRETE, np.array([0, 3, value]), r"integers in 0\.\.3") for value in (-1, 4)),
        *((SpaceSpec(dtype, (2,)), np.array([[0, 0], [0, 0], [0, value]], dtype), "finite numbers")
          for dtype, value in NUMBERS),
        # A bool of another byte is neither true nor false to NumPy and torch.
        *((SpaceSpec("bool", (2,)), np.array([0, 1, 1, 0, byte, 1], np.uint8), "bools of 0 or 1")
          for byte in (2, 128, 255)),
    ],
)  # fmt: skip
def test_observations_outside_their_space_are_refused(
    spec: SpaceSpec, wrong: npt.NDArray[Any], reason: str
) -> None:
    good = np.where(np.isin(wrong, (0, 1, 3)), wrong, 0).astype(wrong.dtype)
    frames = [FRAMES[0], good.tobytes(), *FRAMES[2:]]
    assert check(frames, spec).observations.tobytes() == good.tobytes()
    with pytest.raises(WireError, match=f"observations: expected {reason}"):
        check([FRAMES[0], wrong.tobytes(), *FRAMES[2:]], spec)


@pytest.mark.parametrize(
    ("spec", "actions", "reason"),
    [
        *((DISCRETE, np.array([0, 3, value]), r"integers in 0\.\.3") for value in (-1, 4, 2**62)),
        *((SPEC, np.array([0, 0, 0, 0, 0, value], np.float32), "finite numbers")
          for value in (np.nan, np.inf)),
        (SPEC, np.zeros(4, np.float32), "24 bytes, got 16"),
    ],
)  # fmt: skip
def test_actions_outside_their_space_are_refused(
    spec: SpaceSpec, actions: npt.NDArray[Any], reason: str
) -> None:
    with pytest.raises(WireError, match=f"actions: expected {reason}"):
        codec.check_actions(messages.Actions(1, 0, 0, actions.tobytes()), spec, 3)


def test_actions_come_in_their_form() -> None:
    actions = np.arange(6, dtype=np.float32).reshape(3, 2)
    message = messages.Actions(1, 0, 0, actions.tobytes())
    np.testing.assert_array_equal(codec.check_actions(message, SPEC, 3), actions)
