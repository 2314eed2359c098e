"""Forms of observations and actions, as both sides of the wire agree on them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seed.wire.errors import WireError, checked_map, is_count
from seed.wire.limits import MAX_OBSERVATION_BYTES

DTYPES = ("uint8", "int32", "int64", "float32", "float64", "bool")
# More of them would fill a header.
MOST_LARGEST = 64
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class SpaceSpec:
    """The dtype and shape of one observation or one action.

    Attributes:
        dtype: NumPy name of the element type, one of `DTYPES`.
        shape: Sizes of one observation or action, without any batch dimension.
        n: Number of values of a Discrete space (they are sent as int64 from 0); None for a Box.
        largest: Largest magnitude of the values by the bounds that a Box declares: one number for
            all, or one for each place along the last axis; None where nothing is known. Networks
            scale by it. Both sides of the wire may differ in it: specs that do are equal.
    """

    dtype: str
    shape: tuple[int, ...]
    n: int | None = None
    largest: tuple[int, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of one observation or action on the wire."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def to_map(self) -> dict[str, Any]:
        """The msgpack form, read back by `from_map`."""
        form: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "n": self.n}
        if self.largest is not None:
            form["largest"] = list(self.largest)
        return form

    @staticmethod
    def from_map(value: object) -> SpaceSpec:
        """Checks and reads `to_map`'s form; raises WireError."""
        fields = checked_map(value, "a space")
        dtype, shape, n = fields.get("dtype"), fields.get("shape"), fields.get("n")
        if dtype not in DTYPES:
            raise WireError(f"space dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        if not isinstance(shape, list) or len(shape) > 8 or not all(is_count(s) for s in shape):
            raise WireError(f"space shape: expected up to 8 positive sizes, got {shape!r}")
        if n is not None and not is_count(n):
            raise WireError(f"space n: expected null or a positive integer, got {n!r}")
        spec = SpaceSpec(str(dtype), tuple(shape), n, _largest(fields.get("largest"), shape))
        # Python's integers: a product of eight large sizes must not wrap round to a small one.
        total_bytes = np.dtype(spec.dtype).itemsize
        for size in spec.shape:
            total_bytes *= size
        if total_bytes > MAX_OBSERVATION_BYTES:
            raise WireError(f"space of {total_bytes} bytes: at most {MAX_OBSERVATION_BYTES}")
        return spec


def _largest(value: object, shape: list[int]) -> tuple[int, ...] | None:
    """Checks and reads a spec's `largest`; raises WireError."""
    if value is None:
        return None
    sizes = {1, *shape[-1:]}
    if isinstance(value, list) and len(value) in sizes and len(value) <= MOST_LARGEST:
        numbers = [one for one in value if type(one) is int and 0 <= one <= _LARGEST_INTEGER]
        if len(numbers) == len(value):
            return tuple(numbers)
    raise WireError(
        "space largest: expected null, or one integer from 0, or one for each place along the last "
        f"axis where it has at most {MOST_LARGEST}; got {str(value)[:32]}"
    )
