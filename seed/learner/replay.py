"""Prioritized replay (Kapturowski et al. 2019) over the pages of the store.

No row is copied in: replay holds links to whole pages and keeps them from being written again
until they are evicted, the oldest first. A batch is copied out with its burn-in, which is the end
of the page before.

The learner's thread owns all of it. Inference only fills the store's queue; this thread moves
unrolls from there into replay at the pace that keeps the replay ratio.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seed.config.schema import ConfigError, ReplayConfig
from seed.learner.replay_files import (
    UnfitReplay,
    count_pages,
    open_array,
    read_links,
    read_pages,
    write_pages,
)
from seed.learner.sources import Batch
from seed.learner.sum_tree import Priorities, are_usable
from seed.ops.importance import importance_weights
from seed.process.plain_files import read_plain
from seed.store.layout import StoreLayout
from seed.store.pages import PageLinks
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.wire.arrays import Float32Array, Int64Array

_LINKS, _PRIORITIES, _NUMBERS = "links.npy", "priorities.npy", "numbers.json"
# Inserted at a time, which bounds the memory of looking at what acting kept of them.
_LARGEST_INSERT = 256
_MOST_NUMBERS_BYTES = 2**16


def count_unrolls(layout: StoreLayout, config: ReplayConfig) -> int:
    """Unrolls that replay can hold, by `capacity_rows` or `capacity_gib`.

    Args:
        layout: The store's, `num_pages` being those that it needs besides replay's own.
        config: The capacity.

    Raises:
        ConfigError: where not exactly one of them is given, or it is too small.
    """
    if (config.capacity_rows > 0) == (config.capacity_gib > 0):
        raise ConfigError(
            f"replay.capacity_rows = {config.capacity_rows}, replay.capacity_gib = "
            f"{config.capacity_gib}: give one of the two, and leave the other 0"
        )
    length = layout.unroll_length
    unrolls = config.capacity_rows // length
    given = f"replay.capacity_rows = {config.capacity_rows}"
    if config.capacity_gib > 0:
        unrolls = (int(config.capacity_gib * 2**30) - layout.nbytes) // layout.page_nbytes
        given = f"replay.capacity_gib = {config.capacity_gib}"
    least = max(1, math.ceil(config.min_rows / length))
    if unrolls < least:
        raise ConfigError(
            f"{given}: holds {max(0, unrolls)} unrolls of {length} rows, expected at least {least} "
            f"(replay.min_rows = {config.min_rows}); the store needs {layout.num_pages} pages of "
            f"{layout.page_nbytes} bytes besides, by inference.max_envs and learner.batch_size"
        )
    return unrolls


class Replay:
    """A source of batches: unrolls by priority, each row `ratio` times in the mean.

    With n unrolls inserted since the first `min_rows` rows and m sampled since then, 0 <= ratio n -
    m < batch_size + ratio holds at every time: what would break it waits, be it a batch or, in the
    store's queue and at last in the environments, an insert.
    """

    lockstep = False

    def __init__(
        self,
        store: UnrollStore,
        batch_size: int,
        config: ReplayConfig,
        rng: np.random.Generator,
        initial_priorities: Callable[[Unroll], Tensor] | None = None,
    ) -> None:
        """Empty; for as many unrolls as the store's layout has `replay_unrolls`.

        Args:
            store: Holds their rows.
            batch_size: Unrolls of a batch.
            config: Ratio, warm-up and exponents.
            rng: Draws the batches.
            initial_priorities: Gives new unrolls their priorities `[B] float32`; without it 1.
        """
        self._store = store
        self._capacity = capacity = store.layout.replay_unrolls
        self._batch_size = batch_size
        self._config = config
        self._initial_priorities = initial_priorities
        self._priorities = Priorities(capacity, config.priority_exponent, rng)
        # Links of the unroll with number i are in row i % capacity. [capacity, 3] int64
        self._links = np.zeros((capacity, 3), np.int64)
        self._warm_up = math.ceil(config.min_rows / store.layout.unroll_length)
        self._inserted = 0
        self._sampled = 0

    def __len__(self) -> int:
        """Unrolls that can be sampled now."""
        return len(self._priorities)

    def wait(self, timeout_s: float) -> bool:
        """Inserts what has come until enough has for another batch."""
        deadline_s = time.monotonic() + timeout_s
        while (due := self._inserts_due()) > 0:
            self._evict(self._store.take_shortage())
            limit = min(due, self._capacity, _LARGEST_INSERT)
            left_s = deadline_s - time.monotonic()
            pages = self._store.take_some(limit, max(0.0, left_s))
            if pages:
                self._insert(pages)
            elif left_s <= 0:
                return False
        return True

    def next_batch(self) -> Batch:
        """Unrolls sampled by priority, with their burn-in and importance weights."""
        drawn = self._priorities.sample(self._batch_size)
        weights = importance_weights(
            torch.from_numpy(drawn.probabilities), len(self), self._config.importance_exponent
        ).to(self._store.device)
        links = self._links[drawn.numbers % self._capacity]
        unroll = dataclasses.replace(self._store.gather(links), importance=weights)
        self._sampled += self._batch_size
        return Batch(unroll, self._store.owners(links), drawn.numbers)

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        """Priorities `[B] float32` that an update found for the unrolls with these numbers.

        Where one is NaN, infinite or negative, the unroll keeps the priority that it has.
        """
        found = priorities.cpu().numpy()
        usable = are_usable(found)
        self._priorities.update_priorities(numbers[usable], found[usable])

    def scalars(self) -> dict[str, float]:
        """Unrolls held, and how often each inserted one has been sampled since learning began."""
        figures = {"replay_unrolls": float(len(self))}
        learned_from = self._inserted - self._warm_up
        if learned_from > 0:
            figures["replay_ratio"] = self._sampled / learned_from
        return figures

    def save(self, folder: Path, sign: Callable[[], None]) -> None:
        """Writes all of it into a new folder, for `load` in a later process.

        `sign` is called again and again meanwhile.
        """
        folder.mkdir()
        slots = np.arange(self._priorities.begin, self._priorities.end) % self._capacity
        links = write_pages(folder, self._store, self._links[slots], sign)
        np.save(folder / _LINKS, links)
        np.save(folder / _PRIORITIES, self._priorities.priorities())
        counts = {"inserted": self._inserted, "sampled": self._sampled}
        (folder / _NUMBERS).write_text(json.dumps({**self._form(), **self._pace(), **counts}))

    def load(self, folder: Path) -> None:
        """Takes over what `save` wrote; this replay is empty, and inference has not started.

        Where the store is smaller now, the oldest unrolls are left out. Where the replay ratio or
        the warm-up is another, it holds from here on, whatever was sampled before.

        Raises:
            UnfitReplay: where it is of another form than this store's.
        """
        numbers = self._read_numbers(folder / _NUMBERS)
        links = read_links(folder / _LINKS)
        priorities = np.array(open_array(folder / _PRIORITIES, np.dtype(np.float32), ()))
        if len(priorities) != len(links):
            raise UnfitReplay(f"{folder} has {len(links)} unrolls and {len(priorities)} priorities")
        links = links[-self._capacity :]
        while (lacking := count_pages(links) - self._store.layout.num_pages) > 0:
            links = links[lacking:]
        priorities = priorities[len(priorities) - len(links) :]
        self._insert_links(read_pages(folder, self._store, links), priorities)
        self._inserted = min(len(self), self._warm_up)
        if all(numbers[name] == value for name, value in self._pace().items()):
            self._inserted, self._sampled = numbers["inserted"], numbers["sampled"]

    def _read_numbers(self, path: Path) -> dict[str, Any]:
        """What `save` wrote besides arrays; raises UnfitReplay where it is of another form."""
        try:
            numbers = json.loads(read_plain(path, _MOST_NUMBERS_BYTES))
            form = {name: numbers[name] for name in self._form()}
            counts = [numbers[name] for name in ("inserted", "sampled")]
            numbers = {**numbers, **{name: numbers.get(name) for name in self._pace()}}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnfitReplay(f"{path} cannot be read ({error})") from None
        if form != self._form():
            raise UnfitReplay(f"{path.parent} is of {form}, expected {self._form()}")
        if not all(type(count) is int and 0 <= count < 2**62 for count in counts):
            raise UnfitReplay(f"{path} holds counts that are none")
        return numbers

    def _form(self) -> dict[str, int]:
        """What must be the same for pages to mean the same."""
        layout = self._store.layout
        return {"unroll_length": layout.unroll_length, "burn_in": layout.burn_in}

    def _pace(self) -> dict[str, float]:
        """What must be the same for the counts to go on."""
        return {"ratio": self._config.ratio, "warm_up": self._warm_up}

    def _inserts_due(self) -> int:
        """Inserts before the next batch; 0 or less where it may be sampled now."""
        missing = max(self._warm_up - self._inserted, 1 - len(self))
        if missing > 0:
            return missing
        owed = self._config.ratio * (self._inserted - self._warm_up) - self._sampled
        return math.ceil((self._batch_size - owed) / self._config.ratio)

    def _insert(self, pages: list[PageLinks]) -> None:
        self._evict(len(self) + len(pages) - self._capacity)
        links = np.array(pages, np.int64)
        self._insert_links(links, self._first_priorities(links))
        self._inserted += len(pages)

    def _insert_links(self, links: Int64Array, priorities: Float32Array) -> None:
        slots = (self._priorities.end + np.arange(len(links))) % self._capacity
        self._links[slots] = links
        # What has no usable priority is sampled hardly ever, but there is always one to sample.
        self._priorities.insert(np.where(are_usable(priorities), priorities, np.float32(0)))

    @torch.no_grad()
    def _first_priorities(self, links: Int64Array) -> Float32Array:
        if self._initial_priorities is None:
            return np.ones(len(links), np.float32)
        unroll = self._store.gather_without_observations(links)
        return self._initial_priorities(unroll).cpu().numpy()

    def _evict(self, count: int) -> None:
        """Takes the oldest unrolls out and hands their pages back."""
        count = min(count, len(self))
        if count <= 0:
            return
        if self._store.device.type == "cuda":
            # The copies of the last batch must be complete before its pages are written again.
            torch.cuda.current_stream(self._store.device).synchronize()
        slots = (self._priorities.begin + np.arange(count)) % self._capacity
        self._priorities.evict(count)
        self._store.release(self._links[slots])
