"""Tensors copied into others, through dataclasses and dictionaries."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from seed.device.transfer import move, overwrite


@dataclass
class Inner:
    named: dict[str, Tensor]


@dataclass
class Outer:
    inner: Inner
    count: int
    values: Tensor


def make_outer(value: int, count: int = 3) -> Outer:
    named = {"a": torch.full((2,), value), "b": torch.full((), value + 1)}
    return Outer(Inner(named), count, torch.full((2, 2), float(value)))


def test_moving_reaches_every_tensor_and_nothing_else() -> None:
    moved: Outer = move(make_outer(1), torch.device("meta"))
    tensors = [*moved.inner.named.values(), moved.values]
    assert [(tensor.is_meta, tensor.shape) for tensor in tensors] == [
        (True, (2,)), (True, ()), (True, (2, 2)),
    ]  # fmt: skip
    assert (list(moved.inner.named), moved.count) == (["a", "b"], 3)


def test_overwriting_reaches_every_tensor_and_keeps_its_place() -> None:
    old, new = make_outer(1), make_outer(5)
    tensors = [*old.inner.named.values(), old.values]
    overwrite(old, new)
    assert [tensor.flatten()[0].item() for tensor in tensors] == [5, 6, 5]
    assert all(tensor is kept for tensor, kept in zip(
        tensors, [*old.inner.named.values(), old.values], strict=True
    ))  # fmt: skip
    # Copies: what was copied from may be written again.
    new.values.zero_()
    assert old.values[0, 0].item() == 5


def test_overwriting_refuses_another_form() -> None:
    with pytest.raises(ValueError, match="shorter"):
        overwrite({"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.ones(2)})
    # Which copying alone would repeat.
    with pytest.raises(ValueError, match=r"of shape \[1\], expected \[2\]"):
        overwrite(torch.zeros(2), torch.ones(1))
