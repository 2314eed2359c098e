"""Sequence priorities against the paper's formula, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from seed.ops.sequence_priorities import sequence_priorities

Array = NDArray[np.float64]


def priorities_as_loop(errors: Array, valid: Array, max_share: float) -> list[float]:
    """One sequence after the other, from lists of its valid errors."""
    priorities = []
    for b in range(errors.shape[1]):
        sizes = [abs(errors[t, b]) for t in range(len(errors)) if valid[t, b]]
        mean = sum(sizes) / len(sizes) if sizes else 0.0
        priorities.append(max_share * max(sizes, default=0.0) + (1 - max_share) * mean)
    return priorities


def random_errors(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length, batch = int(torch.randint(1, 12, (), generator=generator)), 6
    errors = torch.randn(length, batch, generator=generator) * 5
    valid = torch.rand(length, batch, generator=generator) < 0.7
    # All, none, one.
    valid[:, 0], valid[:, 1], valid[:, 2] = True, False, False
    valid[-1, 2] = True
    return errors, valid


@given(seed=st.integers(0, 2**31), max_share=st.floats(0, 1))
def test_matches_the_formula(seed: int, max_share: float) -> None:
    errors, valid = random_errors(seed)
    expected = priorities_as_loop(errors.double().numpy(), valid.numpy(), max_share)
    copy = errors.clone()
    actual = sequence_priorities(errors.requires_grad_(), valid, max_share)
    assert (actual.dtype, actual.requires_grad) == (torch.float32, False)
    assert torch.equal(errors.detach(), copy)
    # Zeros and ones will do.
    assert torch.equal(sequence_priorities(errors, valid.float(), max_share), actual)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**31), rubbish=st.sampled_from([1e30, float("inf"), float("nan")]))
def test_invalid_rows_hold_what_they_like(seed: int, rubbish: float) -> None:
    errors, valid = random_errors(seed)
    before = sequence_priorities(errors, valid, 0.9)
    after = sequence_priorities(errors.masked_fill(~valid, rubbish), valid, 0.9)
    assert torch.equal(after, before)
    assert after[1] == 0


@pytest.mark.parametrize(
    ("errors", "valid"), [((4,), (4,)), ((0, 3), (0, 3)), ((4, 3), (3, 4)), ((4, 3), (1, 3))]
)
def test_refuses_other_shapes(errors: tuple[int, ...], valid: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"errors and valid must be \[T, B\] both"):
        sequence_priorities(torch.zeros(errors), torch.ones(valid), 0.9)


@pytest.mark.parametrize("max_share", [-0.1, 1.1, float("nan")])
def test_refuses_a_share_out_of_range(max_share: float) -> None:
    with pytest.raises(ValueError, match=f"max_share must be from 0 to 1, got {max_share}; 0.9"):
        sequence_priorities(torch.zeros(2, 1), torch.ones(2, 1), max_share)
