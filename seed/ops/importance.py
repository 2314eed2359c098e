"""Importance weights of prioritized replay (Schaul et al. 2016), as R2D2 takes them."""

from __future__ import annotations

from torch import Tensor


def importance_weights(probabilities: Tensor, size: int, exponent: float) -> Tensor:
    """Return the weights [B] float32 that undo the bias of sampling (section 3.4 of the paper).

        w_i = (size P_i)^-exponent / max_j (size P_j)^-exponent

    The maximum is over the batch: the weights only ever scale down, and the largest is 1.

    probabilities: [B], those with which the items of the batch were drawn, above 0.
    size: items that could have been drawn, at least 1.
    exponent: beta in the paper, at least 0; 0 undoes nothing, 1 all of it, R2D2 takes 0.6.

    Raises ValueError on other shapes, or a size or exponent out of range.
    """
    if probabilities.dim() != 1 or len(probabilities) < 1:
        raise ValueError(
            f"probabilities must be [B] with B at least 1, got {tuple(probabilities.shape)}; "
            "pass one probability for each item of the batch"
        )
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}; pass the number of items in replay")
    if not exponent >= 0:
        raise ValueError(f"exponent must be at least 0, got {exponent}; R2D2 takes 0.6")
    weights = (size * probabilities.double()).pow(-exponent)  # [B] float64
    return (weights / weights.max()).float()
