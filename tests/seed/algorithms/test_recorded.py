"""The algorithms' numbers are those that were recorded, to the last bit on the same processor.

`recorded.json` says with which torch and on which processor it was made.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.seed.algorithms.recorded import CASES, PATH, made_by, record

RECORDED: dict[str, Any] = json.loads(PATH.read_text())


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_that_were_recorded(name: str) -> None:
    found, expected = record(CASES[name]), RECORDED["cases"][name]
    if made_by() == RECORDED["made_by"]:
        assert found == expected
    assert names(found) == names(expected)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-5, abs=1e-5)


def names(found: dict[str, Any]) -> list[Any]:
    """What there is of scalars, and of weights in their order, which checkpoints of 0.1 go by."""
    weights = [[name, weight["shape"]] for name, weight in found["weights"].items()]
    return [*weights, {after: sorted(values) for after, values in found["scalars"].items()}]


def numbers(found: dict[str, Any]) -> list[float]:
    """All but the digests."""
    scalars = [values[name] for values in found["scalars"].values() for name in sorted(values)]
    weights = found["weights"].values()
    return scalars + [each for weight in weights for each in (weight["mean"], *weight["ends"])]
