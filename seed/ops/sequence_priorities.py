"""Replay priorities of whole sequences, as in R2D2 (Kapturowski et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_priorities(errors: Tensor, valid: Tensor, max_share: float) -> Tensor:
    """Return the priorities [B] float32, without gradient (section 2.3 of the paper).

        p = max_share max_t |error_t| + (1 - max_share) mean_t |error_t|

    over the valid rows alone; 0 for a sequence without any.

    errors: [T, B] float32, temporal-difference errors; what an invalid row holds does not matter.
    valid: [T, B], bool or 0 and 1: whether row t's action led to a transition.
    max_share: from 0 to 1, eta in the paper, which takes 0.9.

    Raises ValueError on other shapes or a share out of range.
    """
    if errors.dim() != 2 or errors.shape[0] < 1 or errors.shape != valid.shape:
        raise ValueError(
            f"errors and valid must be [T, B] both with T at least 1, got {tuple(errors.shape)} "
            f"and {tuple(valid.shape)}; put time first and the batch second"
        )
    if not 0 <= max_share <= 1:
        raise ValueError(f"max_share must be from 0 to 1, got {max_share}; 0.9 is the paper's")
    with torch.no_grad():
        valid = valid != 0
        sizes = errors.abs().masked_fill(~valid, 0.0)  # [T, B] float32
        means = sizes.sum(dim=0) / valid.sum(dim=0).clamp(min=1)  # [B] float32
        return max_share * sizes.amax(dim=0) + (1.0 - max_share) * means
