"""Sums that decay backwards, by hand."""

from __future__ import annotations

import torch

from seed.ops.decayed_sums import decayed_sums


def test_by_hand() -> None:
    terms = torch.tensor([[1.0, 8.0], [2.0, 4.0], [4.0, 2.0]])
    decays = torch.tensor([[0.5, 0.5], [0.25, 0.0], [9.0, 9.0]])
    sums = decayed_sums(terms, decays)
    assert sums.tolist() == [[1 + 0.5 * (2 + 0.25 * 4), 8 + 0.5 * 4], [2 + 0.25 * 4, 4], [4, 2]]


def test_of_one_step_is_its_term() -> None:
    assert decayed_sums(torch.tensor([[3.0]]), torch.tensor([[0.5]])).tolist() == [[3.0]]
