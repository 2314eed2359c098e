"""Sums over what is to come, each step's share decaying on the way back."""

from __future__ import annotations

import torch
from torch import Tensor


def decayed_sums(terms: Tensor, decays: Tensor) -> Tensor:
    """Return x [T, B] with x_t = terms_t + decays_t x_{t+1}, and x_T = 0; T is at least 1."""
    total = torch.zeros_like(terms[0])  # [B] float32
    totals: list[Tensor] = []
    for term, decay in zip(reversed(terms.unbind()), reversed(decays.unbind()), strict=True):
        total = torch.addcmul(term, decay, total)
        totals.append(total)
    totals.reverse()
    return torch.stack(totals)
