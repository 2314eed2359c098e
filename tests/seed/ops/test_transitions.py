"""Transitions against a walk over the rows, and by hand at the two kinds of end and at a break."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seed.ops.transitions import Transitions, transitions


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


def four_rows(
    terminated: tuple[int, ...] = (), truncated: tuple[int, ...] = (), first: tuple[int, ...] = ()
) -> Transitions:
    """Rows 0 to 3 of one environment with these flags."""
    flags = {"terminated": terminated, "truncated": truncated, "first": first}
    return transitions(
        **{name: torch.tensor([[t in rows] for t in range(4)]) for name, rows in flags.items()},
        rewards=torch.tensor([[9.0], [1.0], [2.0], [3.0]]),
        values=torch.tensor([[10.0], [20.0], [30.0], [40.0]]),
        discount=0.5,
    )


def assert_steps(
    steps: Transitions, rewards: list[float], discounts: list[float], valid: list[float]
) -> None:
    assert steps.rewards[:, 0].tolist() == rewards
    assert steps.discounts[:, 0].tolist() == discounts
    assert steps.valid[:, 0].tolist() == valid


def test_each_action_is_followed_by_the_next_rows_reward() -> None:
    assert_steps(four_rows(), [1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [1, 1, 1])


def test_nothing_follows_a_terminated_row() -> None:
    steps = four_rows(terminated=(1,), first=(2,))
    assert_steps(steps, [1.0, 20.0, 3.0], [0.0, 0.0, 0.5], [1, 0, 1])


def test_a_truncated_row_has_a_value() -> None:
    steps = four_rows(truncated=(1,), first=(2,))
    assert_steps(steps, [1.0, 20.0, 3.0], [0.5, 0.0, 0.5], [1, 0, 1])


def test_termination_wins_over_truncation() -> None:
    steps = four_rows(terminated=(1,), truncated=(1,), first=(2,))
    assert_steps(steps, [1.0, 20.0, 3.0], [0.0, 0.0, 0.5], [1, 0, 1])


def test_a_history_that_broke_is_like_a_truncation() -> None:
    assert_steps(four_rows(first=(2,)), [1.0, 20.0, 3.0], [0.5, 0.0, 0.5], [1, 0, 1])


def test_the_ends_of_the_unroll() -> None:
    assert_steps(four_rows(first=(0,)), [1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [1, 1, 1])
    assert_steps(four_rows(terminated=(3,)), [1.0, 2.0, 3.0], [0.5, 0.5, 0.0], [1, 1, 1])
    assert_steps(four_rows(truncated=(3,)), [1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [1, 1, 1])


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
