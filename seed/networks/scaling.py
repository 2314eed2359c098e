"""The factor that brings observations to about 1, by the bounds that their space declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from seed.wire.spaces import SpaceSpec

LARGEST_PIXEL = 255


def observation_scale(observation: SpaceSpec) -> float | Tensor:
    """Return the factor for values of this space: one, or one for each place of the last axis.

    Values that are declared to lie within 0..255 are divided by the largest that is declared, so
    that flags stay 0 and 1 and pixels lie within 0..1, whatever their dtype. uint8 without
    declared bounds counts as pixels. All else is taken as it is: it says nothing of the values
    that occur.
    """
    largest = observation.largest
    if largest is None:
        largest = (LARGEST_PIXEL if observation.dtype == "uint8" else 1,)
    factors = [1 / n if 1 < n <= LARGEST_PIXEL else 1.0 for n in largest]
    if len(factors) == 1:
        return factors[0]
    return torch.tensor(factors)  # [last axis] float32


def keep_scale(module: nn.Module, scale: float | Tensor | None) -> None:
    """Makes `scale` the module's attribute of that name, on whichever device the module is.

    It is not part of checkpoints, which hold the space itself.
    """
    if isinstance(scale, Tensor):
        module.register_buffer("scale", scale, persistent=False)
    else:
        module.scale = scale  # type: ignore[assignment]


def describe_scale(observation: SpaceSpec) -> str:
    """Return in words what `observation_scale` does with the values."""
    if observation.n is not None:
        return f"one-hot codes of {observation.n} values"
    scale = observation_scale(observation)
    if isinstance(scale, Tensor):
        assert observation.largest is not None
        divisors = ", ".join(str(n if n <= LARGEST_PIXEL else 1) for n in observation.largest)
        return f"values divided by {divisors} along the last axis, by their space's bounds"
    if scale != 1.0:
        return f"values divided by {round(1 / scale)}"
    return "values taken as they are"
