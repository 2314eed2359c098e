"""Measures replay's sampling: `seed.learner.sum_tree` against a prefix sum in torch.

    python -m tools.bench.replay_sampling

A round is what replay does for one batch, once it is full: evict the oldest unrolls, insert as
many, sample a batch and update its priorities. Priorities come from the device and what was drawn
goes there; to bring them to the host and back is part of the tree's time, while all of the prefix
sum is on the device. Both are measured in turns in the same process; figures are medians. torch
has one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from seed.config.schema import ConfigError
from seed.device.names import resolve_device
from seed.learner.sum_tree import PRIORITY_FLOOR, Priorities
from tools.bench.report import (
    describe_origin,
    origin_line,
    positive,
    settings_of,
    start_parser,
    write_json,
)


class Contender(Protocol):
    """What is measured; all tensors are on the device."""

    def insert(self, priorities: Tensor) -> None:
        """Adds items with these priorities `[n] float32`."""

    def play_round(self, new: Tensor, changed: Tensor) -> None:
        """Evicts the oldest items, inserts as many, samples, and updates what was sampled.

        Args:
            new: Priorities of the new items. `[n] float32`
            changed: Priorities of those sampled. `[batch] float32`
        """


class SumTree:
    """`seed.learner.sum_tree.Priorities` with what replay needs to use it from a device."""

    def __init__(self, capacity: int, exponent: float, device: torch.device) -> None:
        """Without items."""
        self._priorities = Priorities(capacity, exponent, np.random.default_rng(0))
        self._device = device

    def insert(self, priorities: Tensor) -> None:
        """Adds items with these priorities `[n] float32`."""
        self._priorities.insert(priorities.cpu().numpy())

    def play_round(self, new: Tensor, changed: Tensor) -> None:
        """Evicts, inserts, samples and updates."""
        self._priorities.evict(len(new))
        self.insert(new)
        drawn = self._priorities.sample(len(changed))
        for array in drawn:
            torch.from_numpy(array).to(self._device)
        self._priorities.update_priorities(drawn.numbers, changed.cpu().numpy())


class Drawn(NamedTuple):
    """Items drawn independently.

    Attributes:
        numbers: `[count] int64`
        probabilities: `[count] float64`
    """

    numbers: Tensor
    probabilities: Tensor


class PrefixSum:
    """One prefix sum over all weights and a binary search for each draw.

    Does all that `seed.learner.sum_tree.Priorities` does but to refuse, and never waits for a GPU.
    """

    def __init__(self, capacity: int, exponent: float, device: torch.device) -> None:
        """Without items."""
        self._begin = 0
        self._end = 0
        self._capacity = capacity
        self._exponent = exponent
        self._device = device
        # Item i is in slot i % capacity. One slot more takes the updates that come too late.
        self._priorities = torch.zeros(capacity + 1, device=device)  # [capacity + 1] float32
        # priority^exponent; 0 where there is nothing to sample. [capacity + 1] float64
        self._weights = torch.zeros(capacity + 1, dtype=torch.float64, device=device)

    def insert(self, priorities: Tensor) -> None:
        """Adds items with these priorities `[n] float32`."""
        slots = self._slots(self._end, len(priorities))
        self._priorities[slots] = priorities
        self._weights[slots] = self._weigh(priorities)
        self._end += len(priorities)

    def evict(self, count: int) -> None:
        """Takes the oldest items out."""
        self._weights.index_fill_(0, self._slots(self._begin, count), 0.0)
        self._begin += count

    def sample(self, count: int) -> Drawn:
        """Draws items by their priorities."""
        sums = self._weights[: self._capacity].cumsum(0)  # [capacity] float64
        draws = torch.rand(count, dtype=torch.float64, device=self._device) * sums[-1]
        # With right=True a draw that equals a sum belongs to the next slot that adds to it, ...
        slots = torch.searchsorted(sums, draws, right=True)  # [count] int64
        # ... and a draw of 0 to the first item with a weight. That one stands in where rounding
        # carries a draw past the end, or onto weight 0 (sums made in parallel need not agree there
        # in their last bit).
        first_usable = torch.searchsorted(sums, sums.new_zeros(1), right=True)
        slots = torch.where(self._weights[slots] > 0, slots, first_usable)
        numbers = (slots - self._begin) % self._capacity + self._begin  # [count] int64
        return Drawn(numbers, self._weights[slots] / sums[-1])

    def update_priorities(self, numbers: Tensor, priorities: Tensor) -> None:
        """Sets priorities `[n] float32` of the items `[n] int64`, but not of those evicted."""
        live = numbers >= self._begin
        slots = torch.where(live, numbers % self._capacity, self._capacity)
        self._priorities[slots] = priorities
        # What the spare slot takes weighs nothing.
        self._weights[slots] = self._weigh(priorities).masked_fill_(~live, 0.0)

    def play_round(self, new: Tensor, changed: Tensor) -> None:
        """Evicts, inserts, samples and updates."""
        self.evict(len(new))
        self.insert(new)
        self.update_priorities(self.sample(len(changed)).numbers, changed)

    def _slots(self, begin: int, count: int) -> Tensor:
        return torch.arange(begin, begin + count, device=self._device) % self._capacity

    def _weigh(self, priorities: Tensor) -> Tensor:
        usable = (priorities >= 0) & (priorities < torch.inf)
        powers = priorities.double().clamp(min=PRIORITY_FLOOR).pow_(self._exponent)
        return powers.masked_fill_(~usable, 0.0)


def time_round_us(contender: Contender, inserted: Tensor, updated: Tensor) -> float:
    """Returns the mean time of a round, in microseconds; the device has finished the last one.

    Args:
        contender: What is measured.
        inserted: Priorities of each round's new items. `[rounds, n] float32`
        updated: Priorities of each round's sampled items. `[rounds, batch] float32`
    """
    started_s = time.perf_counter()
    for new, changed in zip(inserted, updated, strict=True):
        contender.play_round(new, changed)
    if inserted.is_cuda:
        torch.cuda.synchronize(inserted.device)
    return (time.perf_counter() - started_s) * 1e6 / len(inserted)


def measure(items: int, device: torch.device, arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the medians of both at this size, in microseconds, by name."""
    contenders: dict[str, Contender] = {
        "sum_tree": SumTree(items, arguments.exponent, device),
        "prefix_sum": PrefixSum(items, arguments.exponent, device),
    }
    for contender in contenders.values():
        contender.insert(torch.rand(items, device=device))
    times_us: dict[str, list[float]] = {name: [] for name in contenders}
    inserts = min(arguments.inserts, items)
    # One more than is counted: the first warms up.
    for repetition in range(arguments.repetitions + 1):
        inserted = torch.rand(arguments.rounds, inserts, device=device)
        updated = torch.rand(arguments.rounds, arguments.batch, device=device)
        for name, contender in contenders.items():
            time_us = time_round_us(contender, inserted, updated)
            if repetition > 0:
                times_us[name].append(time_us)
    return {name: statistics.median(times) for name, times in times_us.items()}


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("replay_sampling", __doc__)
    parser.add_argument(
        "--items", type=positive, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000],
        help="items in replay; several sizes are measured one after another",
    )  # fmt: skip
    parser.add_argument("--batch", type=positive, default=64, help="items sampled per round")
    parser.add_argument("--inserts", type=positive, default=85, help="items replaced per round")
    parser.add_argument("--exponent", type=float, default=0.9, help="power of the priorities")
    parser.add_argument("--rounds", type=positive, default=100, help="rounds timed together")
    parser.add_argument("--repetitions", type=positive, default=21, help="timings per median")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of all but the tree")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, in microseconds per round."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        device = resolve_device(arguments.device, "--device")
    except ConfigError as error:
        parser.error(str(error))
    origin = describe_origin(str(device))
    print(
        f"{origin_line(origin)}\n{device}; {arguments.inserts} evicted and inserted, "
        f"{arguments.batch} sampled and updated per round"
    )
    print(f"{'items':>9}  {'sum-tree us':>11}  {'prefix sum us':>13}  {'prefix / tree':>13}")
    rows: list[dict[str, Any]] = []
    for items in arguments.items:
        medians_us = measure(items, device, arguments)
        tree_us, prefix_us = medians_us["sum_tree"], medians_us["prefix_sum"]
        ratio = prefix_us / tree_us
        rows.append({"items": items, "median_us": medians_us, "ratio": ratio})
        print(f"{items:>9}  {tree_us:>11.1f}  {prefix_us:>13.1f}  {ratio:>13.2f}")
    if arguments.json is not None:
        write_json(arguments.json, origin, {"settings": settings_of(arguments), "rows": rows})


if __name__ == "__main__":
    main()
