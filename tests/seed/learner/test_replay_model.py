"""Replay over a real store against a naive model: a list of unrolls, searched from end to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seed.config.schema import ReplayConfig
from seed.learner.replay import Replay
from seed.learner.sources import Batch
from seed.learner.sum_tree import PRIORITY_FLOOR
from seed.store.rows import Unroll
from seed.wire.arrays import Int64Array
from tests.seed.store_model import LAYOUT, Model, Row, Whole

NAN, INF = math.nan, math.inf


def initial_priority(row: Row) -> float:
    """By the first row's number; now and then it is no number."""
    return NAN if row.number % 7 == 3 else 0.25 * (row.number % 5)


def initial_priorities(unroll: Unroll) -> Tensor:
    """The same from what acting has kept."""
    numbers = (unroll.actions[0] // 10).tolist()
    return torch.tensor([initial_priority(Row(number, first=False)) for number in numbers])


@dataclass
class Item:
    """An unroll in the naive replay."""

    number: int
    unroll: Whole
    priority: float


class Naive:
    """Inserts one unroll at a time and looks at all of them for every sample."""

    def __init__(
        self, capacity: int, batch_size: int, config: ReplayConfig, length: int,
        read: Callable[[list[Whole]], None],
    ) -> None:  # fmt: skip
        self.read = read
        self.capacity = capacity
        self.batch_size = batch_size
        self.config = config
        self.warm_up = -(-config.min_rows // length)
        self.length = length
        self.items: list[Item] = []
        self.inserted = 0
        self.sampled = 0

    def may_sample(self) -> bool:
        if self.inserted < max(1, self.warm_up):
            return False
        owed = self.config.ratio * (self.inserted - self.warm_up) - self.sampled
        return owed >= self.batch_size

    def wait(self, queue: list[Whole]) -> bool:
        while not self.may_sample() and queue:
            unroll = queue.pop(0)
            if len(self.items) == self.capacity:
                self.read([self.items.pop(0).unroll])
            priority = initial_priority(unroll.rows[-1 - self.length])
            priority = 0.0 if math.isnan(priority) else priority
            self.items.append(Item(self.inserted, unroll, priority))
            self.inserted += 1
        return self.may_sample()

    def scalars(self) -> dict[str, float]:
        figures = {"replay_unrolls": float(len(self.items))}
        learned_from = self.inserted - self.warm_up
        return figures | (
            {"replay_ratio": self.sampled / learned_from} if learned_from > 0 else {}
        )

    def item(self, number: int) -> Item | None:
        return next((item for item in self.items if item.number == number), None)

    def probability(self, item: Item) -> float:
        return self.weigh(item) / math.fsum(map(self.weigh, self.items))

    def weigh(self, item: Item) -> float:
        return float(max(item.priority, PRIORITY_FLOOR) ** self.config.priority_exponent)

    def update(self, numbers: list[int], priorities: list[float]) -> None:
        for number, priority in zip(numbers, priorities, strict=True):
            item = self.item(number)
            if item is not None and 0 <= priority < INF:
                item.priority = priority


class Both:
    """A store with replay and its model side by side."""

    def __init__(self, config: ReplayConfig, capacity: int, batch_size: int, **layout: Any) -> None:
        self.model = Model(replace(LAYOUT, replay_unrolls=capacity, num_pages=250, **layout))
        self.replay = Replay(
            self.model.store, batch_size, config, np.random.default_rng(0), initial_priorities
        )
        self.naive = Naive(
            capacity, batch_size, config, self.model.layout.unroll_length, self.model.read
        )
        self.samples: list[tuple[Batch, list[Whole]]] = []

    def wait(self) -> bool:
        ready = self.naive.wait(self.model.queue)
        assert self.replay.wait(0.0) == ready
        assert len(self.replay) == len(self.naive.items)
        assert self.model.store.num_ready == len(self.model.queue)
        assert self.replay.scalars() == self.naive.scalars()
        priorities = np.array([item.priority for item in self.naive.items], np.float32)
        assert np.array_equal(self.replay._priorities.priorities(), priorities)
        self.model.check_pages()
        return ready

    def sample(self) -> None:
        ready = self.wait()
        usable = [item for item in self.naive.items if self.naive.weigh(item) > 0]
        if not ready or not usable:
            return
        batch = self.replay.next_batch()
        self.naive.sampled += self.naive.batch_size
        items = [self.naive.item(number) for number in cast(Int64Array, batch.numbers).tolist()]
        assert len(items) == self.naive.batch_size
        # None that have been evicted.
        assert all(item in usable for item in items)
        found = cast(list[Item], items)
        self.check_weights(batch.unroll.importance, found)
        unrolls = [item.unroll for item in found]
        assert batch.env_ids == [unroll.history.env_id for unroll in unrolls]
        self.samples.append((batch, unrolls))
        self.check_rows()

    def check_weights(self, importance: Tensor, items: list[Item]) -> None:
        """As in Schaul et al. (2016): (N P)^-beta over the largest of the batch."""
        size, beta = len(self.naive.items), self.naive.config.importance_exponent
        weights = [(size * self.naive.probability(item)) ** -beta for item in items]
        expected = torch.tensor([weight / max(weights) for weight in weights])
        torch.testing.assert_close(importance, expected, rtol=1e-5, atol=0.0)

    def check_rows(self, newest: int = 1) -> None:
        """Of the newest samples."""
        for batch, unrolls in self.samples[-newest:]:
            self.model.check_unroll(batch.unroll, unrolls)

    def update(self, back: int, priority: float) -> None:
        """New priorities for a sample of some time ago; what was evicted since stays away."""
        batch, _ = self.samples[-1 - back % len(self.samples)]
        assert batch.numbers is not None
        numbers = batch.numbers.tolist()
        priorities = [priority * (1 + number % 3) for number in numbers]
        self.replay.update_priorities(batch.numbers, torch.tensor(priorities))
        self.naive.update(numbers, priorities)


WRITE = st.tuples(
    st.just("write"),
    st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
    st.sampled_from([0, 0, 0, 1, 2]),
)
OPERATION = st.one_of(
    WRITE,
    WRITE,
    WRITE,
    st.tuples(st.just("break"), st.lists(st.integers(0, 2), max_size=1), st.just(0)),
    st.tuples(st.sampled_from(["wait", "sample", "sample"]), st.just([]), st.just(0)),
    st.tuples(st.just("update"), st.just([]), st.integers(0, 7)),
)


@settings(max_examples=80, deadline=None)
@given(
    operations=st.lists(OPERATION, min_size=40, max_size=150),
    unroll_length=st.integers(1, 3),
    burn_in=st.integers(0, 2),
    staggered=st.booleans(),
    capacity=st.integers(1, 8),
    batch_size=st.integers(1, 9),
    config=st.builds(
        ReplayConfig,
        min_rows=st.integers(0, 12),
        ratio=st.sampled_from([0.25, 0.5, 0.75, 1.0, 4.0]),
        priority_exponent=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        importance_exponent=st.sampled_from([0.0, 0.6, 1.0]),
    ),
)
def test_follows_the_model(
    operations: list[tuple[str, list[int], int]],
    unroll_length: int,
    burn_in: int,
    staggered: bool,
    capacity: int,
    batch_size: int,
    config: ReplayConfig,
) -> None:
    stack = min(2, unroll_length)
    burn_in = min(burn_in, unroll_length - 1)
    both = Both(
        config, capacity, batch_size,
        unroll_length=unroll_length, burn_in=burn_in, frame_stack=stack, staggered=staggered,
    )  # fmt: skip
    for operation, env_ids, number in operations:
        if operation == "write":
            both.model.write(env_ids, [number] * len(env_ids))
        elif operation == "break":
            for env_id in env_ids:
                both.model.break_history(env_id)
        elif operation == "wait":
            both.wait()
        elif operation == "sample":
            both.sample()
        elif both.samples:
            both.update(number, [0.0, 0.5, 3.0, NAN, 1e-9, 2.0, INF, -1.0][number])
    # Whatever was written since: batches are copies.
    both.check_rows(newest=len(both.samples))
