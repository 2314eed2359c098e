"""Spaces, to the form in a message and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from seed.wire.errors import WireError
from seed.wire.spaces import SpaceSpec
from tests.seed.wire.strategies import specs, unhurried


@unhurried
@given(specs)
def test_specs_come_back_as_they_went(spec: SpaceSpec) -> None:
    assert SpaceSpec.from_map(spec.to_map()) == spec
    assert spec.nbytes == np.zeros(spec.shape, spec.dtype).nbytes


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "object"}, {"dtype": "float16"}, {"dtype": None}, {"shape": [0]}, {"shape": [-1]},
     {"shape": [1] * 9}, {"shape": [2**62, 4]}, {"shape": "4"}, {"n": 0}, {"n": 1.5},
     {"shape": [16 * 1024 * 1024 + 1]}, {"largest": 5}, {"largest": []}, {"largest": [1, 2, 3]},
     {"largest": [-1]}, {"largest": [1.5]}, {"largest": [True]}, {"largest": [2**64]},
     {"shape": [65], "largest": [1] * 65}],
)  # fmt: skip
def test_wrong_specs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=r"^space"):
        SpaceSpec.from_map({"dtype": "uint8", "shape": [2], "n": None, **changes})


def test_the_largest_magnitude_comes_back_and_does_not_tell_spaces_apart() -> None:
    """What another machine declares may differ by its version of an environment."""
    specs = [SpaceSpec("uint8", (3, 2), largest=largest) for largest in (None, (255,), (1, 7))]
    for spec in specs:
        assert SpaceSpec.from_map(spec.to_map()).largest == spec.largest
    assert len(set(specs)) == 1
    # A map of an older version has none.
    assert SpaceSpec.from_map({"dtype": "uint8", "shape": [2], "n": None}).largest is None
