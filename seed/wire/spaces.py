"""Forms of observations and actions, as both sides of the wire agree on them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from seed.wire.checks import WireError, is_count, map_of
from seed.wire.limits import MAX_OBSERVATION_BYTES

DTYPES = ("uint8", "int32", "int64", "float32", "float64", "bool")


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
