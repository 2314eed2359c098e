"""Checks what an environment returned against what it declares; nothing is cut to fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from envservers.environments.group import Array, InvalidRow

_STEP = "(observation, reward, terminated, truncated, info)"
_RESET = "(observation, info)"


def fitted(
    values: Any, dtype: np.dtype[Any], shape: tuple[int, ...], what: str = "an observation"
) -> Array:
    """The values in the dtype and the shape that are declared.

    Into floats goes every number, rounded. Into integers and bool goes what they hold exactly.

    Raises:
        InvalidRow: where they have another shape, or would become other values.
    """
    array = np.asarray(values)
    if array.shape != shape:
        raise InvalidRow(
            "unfit", f"the environment returned {what} of shape {array.shape}, expected {shape}"
        )
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf":
        raise InvalidRow(
            "unfit", f"the environment returned {what} of dtype {array.dtype}, expected {dtype}"
        )
    if dtype.kind == "f":
        # What becomes infinite here is found out when the row is checked.
        return array.astype(dtype)
    with np.errstate(invalid="ignore"):
        converted: Array = array.astype(dtype)
    lost = converted != array
    if lost.any():
        raise InvalidRow(
            "unfit",
            f"the environment returned {what} of dtype {array.dtype} with {array[lost].flat[0]} "
            f"in it, which its space's dtype {dtype} cannot hold: declare the dtype that is "
            "returned, or return the one that is declared",
        )
    return converted


def flags(values: Any, num_envs: int, what: str) -> Array:
    """Whether each environment's episode ended. `[n] bool`, a copy

    Raises:
        InvalidRow: for anything but a bool, or 0 or 1, for each.
    """
    return fitted(values, np.dtype(np.bool_), (num_envs,), what).copy()


def flag(value: Any, what: str) -> bool:
    """The same for one environment; an array of one element counts as it."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise InvalidRow(
            "unfit", f"the environment returned {what} = {value!r}, expected True or False"
        )
    return bool(array.item())


def step_parts(result: Any) -> Any:
    """The five parts of what `step` returned; raises InvalidRow for another number of them."""
    if not isinstance(result, tuple | list) or len(result) != 5:
        raise InvalidRow("unfit", f"step returned {_described(result)}, expected {_STEP}")
    return result


def reset_observation(result: Any) -> Any:
    """The observation in what `reset` returned; raises InvalidRow where that is no pair."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InvalidRow("unfit", f"reset returned {_described(result)}, expected {_RESET}")
    return result[0]


def _described(result: Any) -> str:
    if not isinstance(result, tuple | list):
        return f"a value of type {type(result).__name__}"
    old = ", as the old gym did" if len(result) == 4 else ""
    return f"{len(result)} values{old}"
