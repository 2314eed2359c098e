from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envservers.environments.group import InvalidRow
from envservers.environments.returned import fitted, flag, flags


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [([1, 2], "uint8", [1, 2]), (np.array([1.0, 255.0]), "uint8", [1, 255]),
     (np.array([3, 4], np.int64), "int32", [3, 4]), ([0, 1], "bool", [False, True]),
     ([True, False], "int64", [1, 0]), (np.array([0.1, 2]), "float32", [np.float32(0.1), 2]),
     ([16_777_217, 0], "float32", [16_777_216, 0]), ([1e300, np.nan], "float32", [np.inf, np.nan])],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_the_declared_dtype_can_hold_is_taken(
    values: Any, dtype: str, expected: list[Any]
) -> None:
    array = fitted(values, np.dtype(dtype), (2,))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [([0.0, 0.7], "int32", "dtype float64 with 0.7 in it.* dtype int32 cannot hold"),
     ([0, 300], "uint8", "int64 with 300 in it.* uint8"), ([0, -1], "uint8", "with -1 in it"),
     ([0, 2**40], "int32", "int32"), (np.array([0, 2**63], np.uint64), "int64", "uint64"),
     ([0.0, 1e19], "int64", "int64"), ([0.0, np.nan], "uint8", "with nan in it"),
     ([0, 2], "bool", "bool"), (["0", "1"], "float32", "of dtype <U1, expected float32"),
     ([1j, 0], "float32", "complex128"), ([None, 0], "uint8", "object"),
     ([1, 2, 3], "uint8", r"of shape \(3,\), expected \(2,\)")],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_what_would_become_other_values_is_refused(values: Any, dtype: str, reason: str) -> None:
    with pytest.raises(InvalidRow, match=reason) as refusal:
        fitted(values, np.dtype(dtype), (2,))
    assert refusal.value.kind == "unfit"


def test_an_end_may_be_said_in_several_ways() -> None:
    for value in (True, np.True_, 1, 1.0, np.array([True]), np.array(1)):
        assert flag(value, "terminated") is True
    # What fits already is not copied, but for ends.
    ended = np.array([True, False])
    assert fitted(ended, ended.dtype, (2,)) is ended
    assert not np.shares_memory(flags(ended, 2, "terminated"), ended)
    assert flags([1, 0], 2, "terminated").tolist() == [True, False]
    for unfit in ("False", None, 2, [True, False], np.nan):
        with pytest.raises(InvalidRow, match=r"truncated = .*, expected True or False"):
            flag(unfit, "truncated")
