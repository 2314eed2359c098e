"""Gymnasium spaces as wire specs, and the conversion of observations and actions between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces.utils import flatten_space

from envservers.environments.group import Array, InvalidEnvironment
from seed.wire.errors import WireError
from seed.wire.spaces import DTYPES, MOST_LARGEST, SpaceSpec

Convert: TypeAlias = Callable[[Array], Array]

_LARGEST_PIXEL = 255
_WRAP = "return the environment from a function of yours, wrapped in Gymnasium's"


def observation_codec(space: gymnasium.Space[object]) -> tuple[SpaceSpec, Convert]:
    """The spec of a space's observations, and what brings a batch of them into that form.

    Discrete values are counted from 0; float64 becomes float32. The batch is always a copy.

    Raises:
        InvalidEnvironment: for spaces other than Discrete and Box of one of the wire's dtypes.
    """
    _refuse_foreign("observation", space)
    if isinstance(space, Discrete):
        start = int(space.start)
        spec = SpaceSpec("int64", (), int(space.n))
        return spec, lambda values: np.array(values, np.int64) - start
    if isinstance(space, Box):
        dtype = _wire_dtype(space)
        if dtype in DTYPES:
            spec = SpaceSpec(dtype, tuple(space.shape), largest=_largest(space))
            return _checked(spec, space), lambda values: np.array(values, dtype, order="C")
    raise InvalidEnvironment(
        f"observation space {space} is not supported: expected Discrete, or Box of "
        f"{', '.join(DTYPES)}; {_WRAP} {_wrapper_for(space)}"
    )


def _largest(space: Box) -> tuple[int, ...] | None:
    """`SpaceSpec.largest` of a Box of integers, or of floats that are declared as pixels.

    Bounds of other floats are mostly limits of a simulation, far from the values that occur.
    """
    low, high = space.low, space.high
    if space.dtype is None or space.dtype.kind == "f":
        pixels = bool((low == 0).all() and (high == _LARGEST_PIXEL).all())
        return (_LARGEST_PIXEL,) if pixels else None
    # float64: there is no magnitude of the lowest integer among integers. [*shape]
    magnitudes = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    magnitudes = np.minimum(magnitudes, 2.0**62)
    if magnitudes.ndim and 1 < magnitudes.shape[-1] <= MOST_LARGEST:
        columns = magnitudes.reshape(-1, magnitudes.shape[-1])
        if (columns == columns[0]).all() and (columns[0] != columns[0, 0]).any():
            return tuple(columns[0].astype(np.int64).tolist())
    return (int(magnitudes.max()),)


def action_codec(space: gymnasium.Space[object]) -> tuple[SpaceSpec, Convert]:
    """The spec of a space's actions, and what makes environment actions of a batch of them.

    Discrete actions count from 0 on the wire. For Box, the wire's -1 and 1 mean the lower and the
    upper bound, with actions clipped in between; a dimension without two finite bounds passes as
    it is, clipped to the bound that it has.

    Raises:
        InvalidEnvironment: for spaces other than Discrete and Box of floats.
    """
    _refuse_foreign("action", space)
    if isinstance(space, Discrete):
        start = int(space.start)
        return SpaceSpec("int64", (), int(space.n)), lambda actions: actions + start
    if isinstance(space, Box) and space.dtype in (np.float32, np.float64):
        return _checked(SpaceSpec("float32", tuple(space.shape)), space), _scaling(space)
    raise InvalidEnvironment(
        f"action space {space} is not supported: expected Discrete, or Box of float32 or float64; "
        f"{_WRAP} TransformAction, so that it takes actions of such a space"
    )


def _refuse_foreign(what: str, space: object) -> None:
    """Raises InvalidEnvironment for what only looks like a space, as those of the old gym do."""
    if isinstance(space, gymnasium.Space):
        return
    kind = type(space)
    package = kind.__module__.partition(".")[0]
    remedy = "; shimmy's GymV21CompatibilityV0 or GymV26CompatibilityV0 wraps such an environment"
    raise InvalidEnvironment(
        f"{what} space {space} is not supported: expected a space of gymnasium.spaces, got a "
        f"{kind.__qualname__} of {kind.__module__}{remedy if package == 'gym' else ''}"
    )


def _wrapper_for(space: gymnasium.Space[object]) -> str:
    """Which of Gymnasium's wrappers make supported observations of those of this space."""
    try:
        flat: object = flatten_space(space)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, Box):
        return "TransformObservation"
    cast = "DtypeObservation, to float32"
    if isinstance(space, Box):
        return cast
    return "FlattenObservation" + ("" if _wire_dtype(flat) in DTYPES else f" and {cast}")


def _wire_dtype(space: Box) -> str:
    return "float32" if space.dtype == np.float64 else str(space.dtype)


def _scaling(space: Box) -> Convert:
    # float64: the distance between float32's extremes is no float32.
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    finite_low, finite_high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    centre, half = finite_low / 2 + finite_high / 2, finite_high / 2 - finite_low / 2

    def scale(actions: Array) -> Array:
        # Clipping to the bounds here is the same as clipping to -1 and 1 before.
        scaled: Array = np.clip(centre + half * actions, low, high).astype(space.dtype)
        return scaled

    return scale


def _checked(spec: SpaceSpec, space: gymnasium.Space[object]) -> SpaceSpec:
    try:
        return SpaceSpec.from_map(spec.to_map())
    except WireError as error:
        raise InvalidEnvironment(f"space {space} cannot be sent: {error}") from None
