"""What is sampled, how often, and under which number; against a plain dict of priorities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seed.learner.sum_tree import PRIORITY_FLOOR, Float64Array, Priorities
from seed.wire.arrays import Float32Array

NAN, INF = math.nan, math.inf
UNUSABLE = [NAN, INF, -INF, -1.0, -(2.0**-100)]
LARGEST = float(np.finfo(np.float32).max)


class Shares:
    """In place of a generator: draws fall on these shares of the sum of all weights."""

    def __init__(self, *shares: float) -> None:
        self.shares = shares

    def random(self, count: int) -> Float64Array:
        assert count == len(self.shares)
        return np.array(self.shares)


def floats(*values: float) -> Float32Array:
    return np.array(values, np.float32)


def weight(priority: float, exponent: float) -> float:
    """The paper's p^exponent."""
    usable = math.isfinite(priority) and priority >= 0
    return math.pow(max(priority, PRIORITY_FLOOR), exponent) if usable else 0.0


def make(
    priorities: Sequence[float], capacity: int = 8, exponent: float = 1.0, begin: int = 0,
    rng: np.random.Generator | Shares | None = None,
) -> Priorities:  # fmt: skip
    """Items with these priorities, of which the first has the number `begin`."""
    made = Priorities(
        capacity, exponent, cast(np.random.Generator, rng or np.random.default_rng(0))
    )
    for _ in range(begin):
        made.insert(floats(1.0))
        made.evict(1)
    made.insert(floats(*priorities))
    return made


def update(priorities: Priorities, changes: dict[int, float]) -> None:
    priorities.update_priorities(np.array(list(changes), np.int64), floats(*changes.values()))


def chi_square_significance(counts: Float64Array, expected: Float64Array) -> float:
    """How likely counts as far from `expected` or further are (Pearson), where it holds."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2)))


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_frequencies_are_the_powers_of_the_priorities(exponent: float) -> None:
    # Wrapped round: numbers 7 to 17 in 12 slots, of which one is empty and one never sampled.
    given = [NAN if i == 9 else 0.5 + i % 4 + 0.1 * i for i in range(18)]
    priorities = make(given[:10], 12, exponent, rng=np.random.default_rng(5))
    priorities.evict(7)
    priorities.insert(floats(*given[10:]))
    drawn = np.concatenate([priorities.sample(500).numbers for _ in range(100)])
    counts = np.bincount(drawn, minlength=18).astype(np.float64)
    usable = [7, 8, *range(10, 18)]
    assert counts[usable].sum() == 50_000

    def significance(power: float) -> float:
        weights = np.array([weight(given[i], power) for i in usable])
        return chi_square_significance(counts[usable], 50_000 * weights / weights.sum())

    assert significance(exponent) > 1e-4
    assert significance(exponent + 0.1) < 1e-4
    assert significance(exponent - 0.1) < 1e-4


def test_draws_are_independent() -> None:
    priorities = make([1.0, 1.0, 2.0], rng=np.random.default_rng(6))
    pairs = np.stack([priorities.sample(2).numbers for _ in range(5_000)])
    counts = np.bincount(3 * pairs[:, 0] + pairs[:, 1], minlength=9).astype(np.float64)
    single = np.array([0.25, 0.25, 0.5])
    assert chi_square_significance(counts, 5_000 * np.outer(single, single).ravel()) > 1e-4


def test_each_share_of_the_sum_belongs_to_one_item() -> None:
    shares = Shares(0.0, 0.24, 0.25, 0.74, 0.75, math.nextafter(1.0, 0.0))
    assert make([1.0, 2.0, 1.0], rng=shares).sample(6).numbers.tolist() == [0, 0, 1, 1, 2, 2]
    # In slots 6, 7 and 0: the last item comes first in the ring.
    wrapped = make([1.0, 2.0, 1.0], begin=6, rng=shares)
    assert wrapped.sample(6).numbers.tolist() == [8, 8, 6, 7, 7, 7]


@pytest.mark.parametrize("begin", range(9))
def test_no_rounding_leads_to_an_item_that_is_never_sampled(begin: int) -> None:
    # Weights of 0 at both ends and in between; 1 is what no generator gives.
    shares = Shares(0.0, 0.5, 1.0)
    priorities = make([NAN, 1.0, -1.0, INF, 1.0, NAN], begin=begin, rng=shares)
    update(priorities, dict.fromkeys(range(begin), 9.0))
    drawn = priorities.sample(3)
    assert set(drawn.numbers.tolist()) <= {begin + 1, begin + 4}
    assert drawn.probabilities.tolist() == [0.5] * 3


# Sums of two items are rounded otherwise than sums from the first item on.
@given(
    priorities=st.lists(st.sampled_from([NAN, 0.1, 0.3, 0.7, 1e-6, 1e6]), min_size=1, max_size=20),
    exponent=st.sampled_from([0.6, 0.9, 1.0]),
)
def test_draws_at_the_edge_of_an_item_find_it_or_its_neighbour(
    priorities: list[float], exponent: float
) -> None:
    weights = [weight(float(np.float32(priority)), exponent) for priority in priorities]
    usable = [number for number, each in enumerate(weights) if each > 0]
    if not usable:
        return
    edges = [math.fsum(weights[:number]) / math.fsum(weights) for number in usable]
    near = [(math.nextafter(edge, 0.0), edge, math.nextafter(edge, 1.0)) for edge in edges]
    shares = Shares(*[share for three in near for share in three])
    found = make(priorities, 20, exponent, rng=shares).sample(3 * len(usable)).numbers
    for index, three in enumerate(found.reshape(-1, 3).tolist()):
        assert set(three) <= {usable[max(0, index - 1)], usable[index]}


def test_keeps_copies_and_leaves_what_is_given_alone() -> None:
    given, changed, numbers = floats(0.0, 2.0), floats(0.0), np.array([1])
    priorities = make([], capacity=2, exponent=2.0)
    priorities.insert(given)
    priorities.update_priorities(numbers, changed)
    assert (given.tolist(), changed.tolist(), numbers.tolist()) == ([0.0, 2.0], [0.0], [1])
    for array in (given, changed, priorities.priorities()):
        array.fill(7.0)
    assert priorities.priorities().tolist() == [0.0, 0.0]


def test_refuses_to_sample_where_nothing_can_be() -> None:
    priorities = make([], capacity=3)
    with pytest.raises(ValueError, match="a usable priority, got none in 0 items; insert some"):
        priorities.sample(1)
    priorities.insert(floats(NAN, -1.0, 1.0))
    priorities.sample(1)
    update(priorities, {2: INF})
    with pytest.raises(ValueError, match="none in 3 items; insert some, or look for what made"):
        priorities.sample(1)
    priorities.evict(3)
    with pytest.raises(ValueError, match="got none in 0 items"):
        priorities.sample(1)


def test_refuses_more_than_fits_or_is_there() -> None:
    priorities = make([1.0, 1.0], capacity=3)
    with pytest.raises(ValueError, match="at most 1 items, of 3 in all, got 2; evict first"):
        priorities.insert(floats(1.0, 1.0))
    with pytest.raises(ValueError, match="evict 0 to 2 items, as are there, got 3"):
        priorities.evict(3)
    with pytest.raises(ValueError, match="got -1"):
        priorities.evict(-1)
    assert (priorities.begin, priorities.end) == (0, 2)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\); give each item one priority"):
        priorities.update_priorities(np.array([0, 1]), floats(1.0))


@pytest.mark.parametrize(
    ("capacity", "exponent", "text"),
    [
        (0, 0.9, "capacity must be at least 1 item, got 0"),
        (1, -0.1, r"exponent must be from 0 to 7, got -0\.1"),
        (1, 7.5, r"got 7\.5"),
        (1, NAN, "got nan"),
    ],
)
def test_refuses_settings_out_of_range(capacity: int, exponent: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make([], capacity, exponent)


PRIORITY = st.one_of(
    st.floats(2**-10, 2**10, width=32),
    st.floats(0.0, LARGEST, width=32),
    st.sampled_from([0.0, 2.0**-30, LARGEST, *UNUSABLE]),
)


class AgainstDict(RuleBasedStateMachine):
    """The model keeps all live priorities by number and weighs them anew each time."""

    @initialize(
        capacity=st.integers(1, 9), exponent=st.sampled_from([0.0, 0.6, 1.0, 2.0, 7.0]),
        seed=st.integers(0, 1000),
    )  # fmt: skip
    def begin(self, capacity: int, exponent: float, seed: int) -> None:
        self.capacity, self.exponent = capacity, exponent
        self.priorities = Priorities(capacity, exponent, np.random.default_rng(seed))
        self.model: dict[int, float] = {}
        self.inserted = 0

    @rule(given=st.lists(PRIORITY, max_size=9))
    def insert(self, given: list[float]) -> None:
        given = given[: self.capacity - len(self.model)]
        self.priorities.insert(floats(*given))
        self.model |= dict(enumerate(given, self.inserted))
        self.inserted += len(given)

    @rule(count=st.integers(0, 4))
    def evict(self, count: int) -> None:
        oldest = sorted(self.model)[:count]
        self.priorities.evict(len(oldest))
        for number in oldest:
            del self.model[number]

    @precondition(lambda self: self.inserted > 0)
    @rule(ages=st.lists(st.tuples(st.integers(1, 20), PRIORITY), max_size=5))
    def update(self, ages: list[tuple[int, float]]) -> None:
        """Of items that may be gone by now, or that may be there twice."""
        changes = {max(0, self.inserted - age): priority for age, priority in ages}
        numbers = [max(0, self.inserted - age) for age, _ in ages]
        self.priorities.update_priorities(
            np.array(numbers, np.int64), floats(*[changes[number] for number in numbers])
        )
        self.model |= {i: changes[i] for i in changes.keys() & self.model.keys()}

    @rule(count=st.integers(1, 30))
    def sample(self, count: int) -> None:
        weights = {i: weight(priority, self.exponent) for i, priority in self.model.items()}
        total = math.fsum(weights.values())
        if total == 0:
            with pytest.raises(ValueError, match="expected"):
                self.priorities.sample(count)
            return
        sampled = self.priorities.sample(count)
        assert sampled.numbers.shape == (count,)
        drawn = dict(
            zip(sampled.numbers.tolist(), sampled.probabilities.tolist(), strict=True)
        )
        expected = {i: weights[i] / total for i in weights if weights[i] > 0}
        assert drawn == pytest.approx({i: expected[i] for i in drawn}, rel=1e-12, abs=0.0)

    @invariant()
    def holds_the_same(self) -> None:
        numbers = range(self.priorities.begin, self.priorities.end)
        assert list(numbers) == sorted(self.model)
        assert len(self.priorities) == len(self.model)
        assert self.priorities.end == self.inserted
        kept = self.priorities.priorities().tolist()
        assert kept == pytest.approx([self.model[i] for i in numbers], rel=0, abs=0, nan_ok=True)


TestAgainstDict = AgainstDict.TestCase
TestAgainstDict.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
