"""Which of the items in replay is sampled, and how often (Schaul et al. 2016, proportional).

Numbers only: what an item is, is its owner's affair. Sampling takes one prefix sum over all
weights and a binary search for each draw. A sum-tree on the host is somewhat faster where
priorities are in its memory (`python -m tools.bench.replay_sampling` measures both), but would stop
a GPU for every batch. Nothing but the weights is kept, so that no sum drifts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Smaller priorities count as this one, so that an item without any error can be sampled again.
PRIORITY_FLOOR = 1e-6
# Up to it float64 holds the sum of float32's largest numbers to that power.
_LARGEST_EXPONENT = 7.0


class Sampled(NamedTuple):
    """Items drawn independently, so that some may be there twice.

    Attributes:
        numbers: `[count] int64`
        probabilities: With which each of them was drawn: P(i). `[count] float64`
    """

    numbers: Tensor
    probabilities: Tensor


class Priorities:
    """A first-in, first-out line of items, sampled by P(i) = p_i^exponent / sum_k p_k^exponent.

    Items are known by number: the first ever inserted is 0, the next one 1, and so on. An item
    whose priority is NaN, infinite or negative is never sampled, until an update gives it a usable
    one; priorities below `PRIORITY_FLOOR`, 0 too, count as that floor.

    All tensors, given and returned, are on one device. On CUDA nothing here waits for it.

    Owned by one thread.

    Attributes:
        begin: Number of the oldest item that is still there.
        end: Number that the next item inserted will get.
    """

    def __init__(self, capacity: int, exponent: float, device: torch.device) -> None:
        """Without items.

        Args:
            capacity: Items at most.
            exponent: From 0 (all alike) to 7; R2D2 takes 0.9.
            device: Where priorities live and numbers are drawn.

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
        self._device = device
        # Item i is in slot i % capacity. One slot more takes the updates that come too late.
        self._priorities = torch.zeros(capacity + 1, device=device)  # [capacity + 1] float32
        # priority^exponent; 0 where there is nothing to sample. [capacity + 1] float64
        self._weights = torch.zeros(capacity + 1, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        """Items that are there, those that are never sampled included."""
        return self.end - self.begin

    def insert(self, priorities: Tensor) -> None:
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
        slots = self._slots(self.end, count)
        self._priorities[slots] = priorities
        self._weights[slots] = self._weigh(priorities)
        self.end += count

    def evict(self, count: int) -> None:
        """Takes the oldest `count` items out.

        Raises:
            ValueError: where there are fewer.
        """
        if not 0 <= count <= len(self):
            raise ValueError(f"expected to evict 0 to {len(self)} items, as are there, got {count}")
        self._weights.index_fill_(0, self._slots(self.begin, count), 0.0)
        self.begin += count

    def sample(self, count: int) -> Sampled:
        """Draws `count` items, with torch's generator of the device.

        Raises:
            ValueError: where there is no item, or no usable priority. To see the latter on CUDA
                would mean to wait for it; there all probabilities are NaN instead, and the numbers
                without meaning.
        """
        if len(self) == 0:
            raise ValueError("expected at least 1 item to sample from, got none; insert first")
        sums = self._weights[: self._capacity].cumsum(0)  # [capacity] float64
        total = sums[-1]
        if self._device.type == "cpu" and total.item() == 0:
            raise ValueError(
                f"expected a usable priority, got none in {len(self)} items: all are NaN, infinite "
                "or negative; look for what made the errors so"
            )
        draws = torch.rand(count, dtype=torch.float64, device=self._device) * total
        # With right=True a draw that equals a sum belongs to the next slot that adds to it, ...
        slots = torch.searchsorted(sums, draws, right=True)  # [count] int64
        # ... and a draw of 0 to the first item with a weight. That one stands in where rounding
        # carries a draw past the end, or onto weight 0 (sums made in parallel need not agree there
        # in their last bit).
        first_usable = torch.searchsorted(sums, sums.new_zeros(1), right=True)
        slots = torch.where(self._weights[slots] > 0, slots, first_usable)
        numbers = (slots - self.begin) % self._capacity + self.begin  # [count] int64
        return Sampled(numbers, self._weights[slots] / total)

    def update_priorities(self, numbers: Tensor, priorities: Tensor) -> None:
        """Sets priorities `[n] float32` of the items `[n] int64`, but not of those evicted.

        Numbers come from `sample`; one that is there twice has the same priority twice.

        Raises:
            ValueError: where the two are of different lengths.
        """
        if numbers.shape != priorities.shape:
            raise ValueError(
                f"numbers and priorities must be [n] both, got {tuple(numbers.shape)} and "
                f"{tuple(priorities.shape)}; give each item one priority"
            )
        live = numbers >= self.begin
        slots = torch.where(live, numbers % self._capacity, self._capacity)
        self._priorities[slots] = priorities
        # What the spare slot takes weighs nothing.
        self._weights[slots] = self._weigh(priorities).masked_fill_(~live, 0.0)

    def priorities(self) -> Tensor:
        """Priorities as they were given, the oldest item's first. `[len(self)] float32`

        Inserted into an empty one they make the same items, numbered from 0.
        """
        return self._priorities[self._slots(self.begin, len(self))]

    def _slots(self, begin: int, count: int) -> Tensor:
        """Slots of `count` items, `begin` the number of the first. `[count] int64`"""
        return torch.arange(begin, begin + count, device=self._device) % self._capacity

    def _weigh(self, priorities: Tensor) -> Tensor:
        """Each priority to the power of the exponent, 0 where it is unusable. `[n] float64`"""
        usable = (priorities >= 0) & (priorities < torch.inf)
        powers = priorities.double().clamp_(min=PRIORITY_FLOOR).pow_(self._exponent)
        return powers.masked_fill_(~usable, 0.0)
