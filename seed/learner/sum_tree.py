"""Which of the items in replay is sampled, and how often (Schaul et al. 2016, proportional).

Numbers only: what an item is, is its owner's affair. A sum-tree on the host, with one NumPy array
for each level, so that whatever is done to many items at once takes a few operations per level.
`docs/performance.md` compares it with a prefix sum in torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seed.wire.arrays import BoolArray, Float32Array, Int64Array

Float64Array = npt.NDArray[np.float64]

# Smaller priorities count as this one, so that an item without any error can be sampled again.
PRIORITY_FLOOR = 1e-6
# Up to it float64 holds the sum of float32's largest numbers to that power.
_LARGEST_EXPONENT = 7.0


def are_usable(priorities: Float32Array) -> BoolArray:
    """Which of them an item can be sampled by: neither NaN nor infinite nor negative. `[n] bool`"""
    usable: BoolArray = (priorities >= 0) & (priorities < np.inf)
    return usable


class Sampled(NamedTuple):
    """Items drawn independently, so that some may be there twice.

    Attributes:
        numbers: `[count] int64`
        probabilities: With which each of them was drawn: P(i). `[count] float64`
    """

    numbers: Int64Array
    probabilities: Float64Array


class Priorities:
    """A first-in, first-out line of items, sampled by P(i) = p_i^exponent / sum_k p_k^exponent.

    Items are known by number: the first ever inserted is 0, the next one 1, and so on. An item
    whose priority is NaN, infinite or negative is never sampled, until an update gives it a usable
    one; priorities below `PRIORITY_FLOOR`, 0 too, count as that floor.

    Owned by one thread.

    Attributes:
        begin: Number of the oldest item that is still there.
        end: Number that the next item inserted will get.
    """

    def __init__(self, capacity: int, exponent: float, rng: np.random.Generator) -> None:
        """Without items.

        Args:
            capacity: Items at most.
            exponent: From 0 (all alike) to 7; R2D2 takes 0.9.
            rng: Draws the samples.

        Raises:
            ValueError: where capacity or exponent is out of range.
        """
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 item, got {capacity}")
        if not 0 <= exponent <= _LARGEST_EXPONENT:
            raise ValueError(
                f"exponent must be from 0 to {_LARGEST_EXPONENT:g}, got {exponent}; "
                "0 samples all alike, R2D2 takes 0.9"
            )
        self.begin = 0
        self.end = 0
        self._capacity = capacity
        self._exponent = exponent
        self._rng = rng
        # Item i is in slot i % capacity. [capacity] float32
        self._priorities = np.zeros(capacity, np.float32)
        depth = (capacity - 1).bit_length()
        # From the root, `[1]`, to the leaves, `[2**depth]`, all float64. A leaf is its slot's
        # priority^exponent, 0 where there is nothing to sample; every other node is the sum of the
        # two below it, made anew with each change: no sum drifts.
        self._levels = [np.zeros(2**level) for level in range(depth + 1)]

    def __len__(self) -> int:
        """Items that are there, those that are never sampled included."""
        return self.end - self.begin

    def insert(self, priorities: Float32Array) -> None:
        """Adds items with these priorities `[n] float32`; numbers `end` to `end + n - 1`.

        Raises:
            ValueError: where they are more than fit beside those that are there.
        """
        count = len(priorities)
        if len(self) + count > self._capacity:
            raise ValueError(
                f"expected at most {self._capacity - len(self)} items, of {self._capacity} in all, "
                f"got {count}; evict first"
            )
        weights = self._weigh(priorities)
        for slots, part in self._spans(self.end, count):
            self._priorities[slots] = priorities[part]
            self._set_span(slots, weights[part])
        self.end += count

    def evict(self, count: int) -> None:
        """Takes the oldest `count` items out.

        Raises:
            ValueError: where there are fewer.
        """
        if not 0 <= count <= len(self):
            raise ValueError(f"expected to evict 0 to {len(self)} items, as are there, got {count}")
        for slots, _ in self._spans(self.begin, count):
            self._set_span(slots, 0.0)
        self.begin += count

    def sample(self, count: int) -> Sampled:
        """Draws `count` items.

        Raises:
            ValueError: where there is no item, or none with a usable priority.
        """
        total = self._levels[0][0]
        if not total > 0:
            raise ValueError(
                f"expected a usable priority, got none in {len(self)} items; insert some, or look "
                "for what made their errors NaN, infinite or negative"
            )
        # What each draw has beyond all that is to the left of its node. [count] float64
        rest = self._rng.random(count) * total
        slots = np.zeros(count, np.int64)
        for level in self._levels[1:]:
            slots *= 2
            left = level[slots]
            # Rounding may leave a rest as large as both children: not into one without weight.
            right = (rest >= left) & (level[slots + 1] > 0)
            rest -= left * right
            slots += right
        numbers = (slots - self.begin) % self._capacity + self.begin  # [count] int64
        return Sampled(numbers, self._levels[-1][slots] / total)

    def update_priorities(self, numbers: Int64Array, priorities: Float32Array) -> None:
        """Sets priorities `[n] float32` of the items `[n] int64`, but not of those evicted.

        Numbers come from `sample`; one that is there twice has the same priority twice.

        Raises:
            ValueError: where the two are of different lengths.
        """
        if numbers.shape != priorities.shape:
            raise ValueError(
                f"numbers and priorities must be [n] both, got {numbers.shape} and "
                f"{priorities.shape}; give each item one priority"
            )
        live = numbers >= self.begin
        slots, priorities = numbers[live] % self._capacity, priorities[live]
        self._priorities[slots] = priorities
        self._levels[-1][slots] = self._weigh(priorities)
        for parents, children in self._upwards():
            slots = slots >> 1
            parents[slots] = children[2 * slots] + children[2 * slots + 1]

    def priorities(self) -> Float32Array:
        """Priorities as they were given, the oldest item's first. `[len(self)] float32`

        Inserted into an empty one they make the same items, numbered from 0.
        """
        return self._priorities[np.arange(self.begin, self.end) % self._capacity]

    def _weigh(self, priorities: Float32Array) -> Float64Array:
        """Each priority to the power of the exponent, 0 where it is unusable. `[n] float64`"""
        powers = np.maximum(priorities, PRIORITY_FLOOR, dtype=np.float64) ** self._exponent
        weights: Float64Array = np.where(are_usable(priorities), powers, 0.0)
        return weights

    def _spans(self, begin: int, count: int) -> list[tuple[slice, slice]]:
        """Neighbouring slots of `count` items from number `begin`, with the items' own places."""
        first = begin % self._capacity
        head = min(count, self._capacity - first)
        spans = [(slice(first, first + head), slice(0, head))]
        if head < count:
            spans.append((slice(0, count - head), slice(head, count)))
        return spans

    def _set_span(self, slots: slice, weights: Float64Array | float) -> None:
        """Sets the leaves in these slots, and every sum that they are part of."""
        begin, end = slots.start, slots.stop
        self._levels[-1][slots] = weights
        for parents, children in self._upwards():
            begin, end = begin >> 1, (end + 1) >> 1
            pairs = children[2 * begin : 2 * end]
            np.add(pairs[::2], pairs[1::2], out=parents[begin:end])

    def _upwards(self) -> Iterator[tuple[Float64Array, Float64Array]]:
        """Each level and the one below it, the lowest first."""
        return zip(self._levels[-2::-1], self._levels[:0:-1], strict=True)
