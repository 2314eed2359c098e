"""Measures replay's sampling: the prefix sum of `seed.priorities` against a sum-tree in NumPy.

    python -m tools.bench.replay_sampling

A round is what replay does for one batch, once it is full: evict the oldest unrolls, insert as
many, sample a batch and update its priorities. Both are measured in turns in the same process;
figures are medians. torch has one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed.priorities import PRIORITY_FLOOR, Priorities, Sampled

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


class Contender(Protocol):
    """What is measured: `seed.priorities.Priorities`, or what does the same."""

    def insert(self, priorities: Tensor) -> None:
        """Adds items with these priorities `[n] float32`."""

    def evict(self, count: int) -> None:
        """Takes the oldest items out."""

    def sample(self, count: int) -> Sampled:
        """Draws items by their priorities."""

    def update_priorities(self, numbers: Tensor, priorities: Tensor) -> None:
        """Sets priorities `[n] float32` of the items `[n] int64`, but not of those evicted."""


class SumTree:
    """A binary tree whose nodes hold the sums of their leaves, one NumPy array for each level.

    Takes and returns tensors of the device, and does all that `Priorities` does but to refuse.
    """

    def __init__(self, capacity: int, exponent: float, device: torch.device) -> None:
        """Without items."""
        self._begin = 0
        self._end = 0
        self._capacity = capacity
        self._exponent = exponent
        self._device = device
        self._rng = np.random.default_rng(0)
        self._priorities = np.zeros(capacity, np.float32)
        depth = (capacity - 1).bit_length()
        # From the root, `[1]`, to the leaves, `[2**depth]`.
        self._levels: list[FloatArray] = [np.zeros(2**level) for level in range(depth + 1)]

    def insert(self, priorities: Tensor) -> None:
        """Adds items with these priorities `[n] float32`."""
        given = priorities.cpu().numpy()
        weights = self._weigh(given)
        for slots, part in self._spans(self._end, len(given)):
            self._priorities[slots] = given[part]
            self._write_span(slots, weights[part])
        self._end += len(given)

    def evict(self, count: int) -> None:
        """Takes the oldest items out."""
        for slots, _ in self._spans(self._begin, count):
            self._write_span(slots, 0.0)
        self._begin += count

    def sample(self, count: int) -> Sampled:
        """Draws items by their priorities."""
        total = self._levels[0][0]
        rest = self._rng.random(count) * total
        slots = np.zeros(count, np.int64)
        for level in self._levels[1:]:
            slots *= 2
            left = level[slots]
            right = rest >= left
            rest -= left * right
            slots += right
        weights = self._levels[-1][slots]
        slots = np.where(weights > 0, slots, slots[weights.argmax()])
        numbers = (slots - self._begin) % self._capacity + self._begin
        probabilities = self._levels[-1][slots] / total
        return Sampled(
            torch.from_numpy(numbers).to(self._device),
            torch.from_numpy(probabilities).to(self._device),
        )

    def update_priorities(self, numbers: Tensor, priorities: Tensor) -> None:
        """Sets priorities `[n] float32` of the items `[n] int64`, but not of those evicted."""
        asked, given = numbers.cpu().numpy(), priorities.cpu().numpy()
        live = asked >= self._begin
        slots, given = asked[live] % self._capacity, given[live]
        self._priorities[slots] = given
        self._levels[-1][slots] = self._weigh(given)
        for parents, children in self._upwards():
            slots = slots >> 1
            parents[slots] = children[2 * slots] + children[2 * slots + 1]

    def _weigh(self, priorities: Float32Array) -> FloatArray:
        usable = (priorities >= 0) & (priorities < np.inf)
        powers = np.maximum(priorities, PRIORITY_FLOOR, dtype=np.float64) ** self._exponent
        weights: FloatArray = np.where(usable, powers, 0.0)
        return weights

    def _spans(self, begin: int, count: int) -> list[tuple[slice, slice]]:
        """Neighbouring slots of `count` items from number `begin`, with the items' own places."""
        first = begin % self._capacity
        head = min(count, self._capacity - first)
        spans = [(slice(first, first + head), slice(0, head))]
        if head < count:
            spans.append((slice(0, count - head), slice(head, count)))
        return spans

    def _write_span(self, slots: slice, weights: FloatArray | float) -> None:
        begin, end = slots.start, slots.stop
        self._levels[-1][slots] = weights
        for parents, children in self._upwards():
            begin, end = begin >> 1, (end + 1) >> 1
            pairs = children[2 * begin : 2 * end]
            np.add(pairs[::2], pairs[1::2], out=parents[begin:end])

    def _upwards(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Each level and the one below it, the lowest first."""
        return zip(self._levels[-2::-1], self._levels[:0:-1], strict=True)


def time_rounds_us(contender: Contender, inserted: Tensor, updated: Tensor) -> float:
    """Returns the mean time of a round, in microseconds; the device has finished the last one.

    Args:
        contender: What is measured.
        inserted: Priorities of each round's new items. `[rounds, n] float32`
        updated: Priorities of each round's sampled items. `[rounds, batch] float32`
    """
    started_s = time.perf_counter()
    for new, changed in zip(inserted, updated, strict=True):
        contender.evict(len(new))
        contender.insert(new)
        drawn = contender.sample(len(changed))
        contender.update_priorities(drawn.numbers, changed)
    if inserted.is_cuda:
        torch.cuda.synchronize(inserted.device)
    return (time.perf_counter() - started_s) * 1e6 / len(inserted)


def measure(items: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the medians of both at this size, in microseconds, by name."""
    device = torch.device(arguments.device)
    contenders: dict[str, Contender] = {
        "prefix_sum": Priorities(items, arguments.exponent, device),
        "sum_tree": SumTree(items, arguments.exponent, device),
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
            time_us = time_rounds_us(contender, inserted, updated)
            if repetition > 0:
                times_us[name].append(time_us)
    return {name: statistics.median(times) for name, times in times_us.items()}


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Measures rounds of evict, insert, sample and update: the prefix sum of "
        "seed.priorities against a sum-tree in NumPy. torch has one thread.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--items", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000],
        help="items in replay; several sizes are measured one after another",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=64, help="items sampled and updated per round")
    parser.add_argument("--inserts", type=int, default=85, help="items replaced per round")
    parser.add_argument("--exponent", type=float, default=0.9, help="power of the priorities")
    parser.add_argument("--rounds", type=int, default=100, help="rounds timed together")
    parser.add_argument("--repetitions", type=int, default=21, help="timings per median")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; the tree stays on the host")
    parser.add_argument("--json", type=Path, help="file for the figures, too")
    return parser.parse_args()


def main() -> None:
    """Prints the table, in microseconds per round."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"{arguments.device}, torch {torch.__version__}, 1 thread; {arguments.inserts} evicted and "
        f"inserted, {arguments.batch} sampled and updated per round"
    )
    print(f"{'items':>9}  {'prefix sum us':>14}  {'sum-tree us':>11}  {'tree / prefix':>13}")
    rows: list[dict[str, Any]] = []
    for items in arguments.items:
        medians_us = measure(items, arguments)
        prefix_us, tree_us = medians_us["prefix_sum"], medians_us["sum_tree"]
        ratio = tree_us / prefix_us
        rows.append({"items": items, "median_us": medians_us, "ratio": ratio})
        print(f"{items:>9}  {prefix_us:>14.1f}  {tree_us:>11.1f}  {ratio:>13.2f}")
    if arguments.json is not None:
        settings = {name: str(value) for name, value in vars(arguments).items() if name != "json"}
        figures = {"torch": torch.__version__, "settings": settings, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
