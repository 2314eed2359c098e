"""Transitions against a walk over the rows, and by hand at the two kinds of end and at a break."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seed.ops.transitions import transitions


def random_rows(seed: int) -> dict[str, Tensor]:
    """Rows with any pattern of flags: a first row may follow a row that ended nothing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (12, 5)
    rows = {
        name: torch.rand(shape, generator=generator) < 0.25
        for name in ("terminated", "truncated", "first")
    }
    rows["rewards"] = torch.randn(shape, generator=generator)
    rows["values"] = torch.randn(shape, generator=generator)
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_matches_a_walk_over_the_rows(seed: int) -> None:
    rows = random_rows(seed)
    steps = transitions(**rows, discount=0.75)
    assert {tuple(field.shape) for field in steps} == {(11, 5)}
    assert {field.dtype for field in steps} == {torch.float32}
    for t in range(11):
        for b in range(5):
            row = {name: column[t, b].item() for name, column in rows.items()}
            after = {name: column[t + 1, b].item() for name, column in rows.items()}
            if row["terminated"] or row["truncated"] or after["first"]:
                expected = (row["values"], 0.0, 0.0)
            else:
                expected = (after["rewards"], 0.0 if after["terminated"] else 0.75, 1.0)
            assert tuple(field[t, b].item() for field in steps) == expected


def rows_of(**flags: int) -> dict[str, Tensor]:
    """Rows 0 to 3 of one environment; each flag is set in the row given."""
    rows = {
        name: torch.tensor([[t == flags.get(name)] for t in range(4)])
        for name in ("terminated", "truncated", "first")
    }
    rows["rewards"] = torch.tensor([[9.0], [1.0], [2.0], [3.0]])
    rows["values"] = torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    return rows


# Each action is followed by the next row's reward; the pair that is none gives the row's value.
@pytest.mark.parametrize(
    ("flags", "rewards", "discounts", "valid"),
    [
        ({}, [1, 2, 3], [0.5, 0.5, 0.5], [1, 1, 1]),
        ({"terminated": 1, "first": 2}, [1, 20, 3], [0, 0, 0.5], [1, 0, 1]),
        ({"truncated": 1, "first": 2}, [1, 20, 3], [0.5, 0, 0.5], [1, 0, 1]),
        ({"terminated": 1, "truncated": 1, "first": 2}, [1, 20, 3], [0, 0, 0.5], [1, 0, 1]),
        # A history that broke is like a truncation.
        ({"first": 2}, [1, 20, 3], [0.5, 0, 0.5], [1, 0, 1]),
        ({"first": 0}, [1, 2, 3], [0.5, 0.5, 0.5], [1, 1, 1]),
        ({"terminated": 3}, [1, 2, 3], [0.5, 0.5, 0], [1, 1, 1]),
        ({"truncated": 3}, [1, 2, 3], [0.5, 0.5, 0.5], [1, 1, 1]),
    ],
)
def test_by_hand(
    flags: dict[str, int], rewards: list[float], discounts: list[float], valid: list[float]
) -> None:
    steps = transitions(**rows_of(**flags), discount=0.5)
    assert [column[:, 0].tolist() for column in steps] == [rewards, discounts, valid]


def test_leaves_its_inputs_alone() -> None:
    rows = random_rows(7)
    copies = {name: column.clone() for name, column in rows.items()}
    transitions(**rows, discount=0.9)
    assert all(torch.equal(column, copies[name]) for name, column in rows.items())


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("rewards", (12,), r"rewards must be \[T \+ 1, B\].*got shape \(12,\)"),
        ("rewards", (1, 5), r"T at least 1, got shape \(1, 5\)"),
        ("values", (11, 5), r"values must have rewards' shape \(12, 5\), got \(11, 5\)"),
        ("first", (12, 1), r"first must have rewards' shape \(12, 5\), got \(12, 1\)"),
    ],
)
def test_refuses_other_shapes(name: str, shape: tuple[int, ...], text: str) -> None:
    rows = random_rows(0)
    rows[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=text):
        transitions(**rows, discount=0.9)
