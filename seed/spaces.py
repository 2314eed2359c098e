"""Forms of observations and actions, as both sides of the wire agree on them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_OBSERVATION_BYTES = 16 * 1024 * 1024
# Deeper maps and lists are no message, and to print one may take more stack than there is.
MAX_NESTING = 8
DTYPES = ("uint8", "int32", "int64", "float32", "float64", "bool")


class WireError(ValueError):
    """A message that does not follow the protocol; its text says what was expected and came."""


@dataclass(frozen=True)
class SpaceSpec:
    """The dtype and shape of one observation or one action.

    Attributes:
        dtype: NumPy name of the element type, one of `DTYPES`.
        shape: Sizes of one observation or action, without any batch dimension.
        n: Number of values of a Discrete space (they are sent as int64 from 0); None for a Box.
    """

    dtype: str
    shape: tuple[int, ...]
    n: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one observation or action on the wire."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def to_map(self) -> dict[str, Any]:
        """The msgpack form, read back by `from_map`."""
        return {"dtype": self.dtype, "shape": list(self.shape), "n": self.n}

    @staticmethod
    def from_map(value: object) -> SpaceSpec:
        """Checks and reads `to_map`'s form; raises WireError."""
        fields = map_of(value, "a space")
        dtype, shape, n = fields.get("dtype"), fields.get("shape"), fields.get("n")
        if dtype not in DTYPES:
            raise WireError(f"space dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        if not isinstance(shape, list) or len(shape) > 8 or not all(is_count(s) for s in shape):
            raise WireError(f"space shape: expected up to 8 positive sizes, got {shape!r}")
        if n is not None and not is_count(n):
            raise WireError(f"space n: expected null or a positive integer, got {n!r}")
        spec = SpaceSpec(str(dtype), tuple(shape), n)
        # Python's integers: a product of eight large sizes must not wrap round to a small one.
        total_bytes = np.dtype(spec.dtype).itemsize
        for size in spec.shape:
            total_bytes *= size
        if total_bytes > MAX_OBSERVATION_BYTES:
            raise WireError(f"space of {total_bytes} bytes: at most {MAX_OBSERVATION_BYTES}")
        return spec


@dataclass(frozen=True)
class Spaces:
    """The forms that observations and actions have on the wire."""

    observation: SpaceSpec
    action: SpaceSpec

    def to_map(self) -> dict[str, Any]:
        """A form for JSON, read back by `from_map`."""
        return {"observation": self.observation.to_map(), "action": self.action.to_map()}

    @staticmethod
    def from_map(spaces: dict[str, Any]) -> Spaces:
        """Reads what `to_map` wrote."""
        return Spaces(
            SpaceSpec.from_map(spaces["observation"]), SpaceSpec.from_map(spaces["action"])
        )


def map_of(value: object, what: str) -> dict[str, Any]:
    """The value as a map with string keys; raises WireError, which begins with `what`.

    Maps and lists in it are nested at most MAX_NESTING deep.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError(f"{what}: expected a map with string keys, got {type(value).__name__}")
    # Without a call for each: this is done for every message.
    level = [each for each in value.values() if each.__class__ in (list, dict)]
    for _ in range(MAX_NESTING - 1):
        if not level:
            return value
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in children for child in each if type(child) in (list, dict)]
    raise WireError(f"{what}: expected maps and lists nested at most {MAX_NESTING} deep")


def is_count(value: object) -> bool:
    """Whether the value is a positive integer, and not a bool."""
    return type(value) is int and value > 0
