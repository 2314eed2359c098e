"""Extreme numbers in a batch, and whose they are; for batches that are skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seed.store.pages import NO_ENVIRONMENT
from seed.store.rows import Unroll

# Squares of squares of larger numbers leave float32's range, summed over a network's units; nothing
# that is learned from in earnest comes near.
LARGEST_ORDINARY = 1e6


def find_extremes(
    unroll: Unroll, env_ids: Sequence[int], server_of: Callable[[int], str]
) -> dict[str, float]:
    """The magnitude of what is extreme, by what it is and whose: `reward of environment 3 ...`.

    What acting left behind is looked at where the rows themselves are ordinary, as they may be long
    after a row that was not. Waits for the device.

    Args:
        unroll: A batch of B unrolls.
        env_ids: Whose they are; NO_ENVIRONMENT for those of an earlier process. B of them
        server_of: The name of the environment server that an environment belongs to.
    """
    rows = _magnitudes({"reward": unroll.rows.rewards, "observation": unroll.rows.observations})
    left = _magnitudes({"recurrent state": unroll.agent_state[None], **unroll.behaviour})
    found: dict[str, float] = {}
    for index, env_id in enumerate(env_ids):
        for magnitudes in (rows, left):
            extreme = {
                f"{what} of {_name(env_id, server_of)}": values[index]
                for what, values in magnitudes.items()
                if values[index] > LARGEST_ORDINARY
            }
            for text, magnitude in extreme.items():
                found[text] = max(magnitude, found.get(text, 0.0))
            if extreme:
                break
    return found


def _magnitudes(parts: dict[str, Tensor]) -> dict[str, list[float]]:
    """The largest magnitude in each unroll, of those `[T, B, ...]` that can be extreme at all.

    Infinite for what is no number.
    """
    return {
        what: _largest(values.transpose(0, 1).flatten(1))
        for what, values in parts.items()
        if values.numel() and values.dtype not in (torch.uint8, torch.bool)
    }


def _largest(values: Tensor) -> list[float]:
    """The largest magnitude in each row of `[B, n]`."""
    magnitudes = values.to(torch.float32).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    largest: list[float] = magnitudes.amax(dim=1).tolist()
    return largest


def _name(env_id: int, server_of: Callable[[int], str]) -> str:
    if env_id == NO_ENVIRONMENT:
        return "an environment of an earlier process"
    return f"environment {env_id} ({server_of(env_id)})"
