"""Replay over the store's pages: what is in a sample, what waits for what, and what is evicted."""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seed.config.schema import ReplayConfig
from seed.learner.sources import Batch
from seed.learner.sum_tree import Int64Array
from seed.store.layout import StoreLayout
from seed.store.pages import PageLinks
from seed.store.rows import Unroll
from tests.seed.counting import BURN_IN, ENVS, LAYOUT, LENGTH, Setup, check, check_all

CHANCES = {"breaks": 0.02, "ends": 0.07}
CONFIG = ReplayConfig(burn_in=BURN_IN, min_rows=3 * LENGTH, ratio=4.0)
# Where histories break all the time, unrolls need more pages than they are.
TIGHT = replace(LAYOUT, num_pages=20)


def numbers_of(batches: list[Batch]) -> Int64Array:
    """Of all unrolls of these batches. `[n] int64`"""
    return np.concatenate([cast(Int64Array, batch.numbers) for batch in batches])


# --- what is in a sample ---------------------------------------------------------------------


@pytest.mark.parametrize("burn_in", [0, BURN_IN])
@pytest.mark.parametrize("frame_stack", [1, 3])
def test_every_sample_is_one_history_and_starts_from_its_own_state(
    burn_in: int, frame_stack: int
) -> None:
    layout = replace(LAYOUT, burn_in=burn_in, frame_stack=frame_stack)
    setup = Setup(CONFIG, layout)
    batches = setup.batches(150, **CHANCES)
    check_all(batches)
    for batch in batches:
        newest = batch.unroll.rows.observations[burn_in].flatten(1)[:, -4:]  # [B, 4] int64
        assert batch.env_ids == newest[:, 0].tolist()
    # All that could go wrong has been there: evictions, restarts, ends of episodes in the burn-in
    # and after it.
    assert numbers_of(batches).max() > 5 * layout.replay_unrolls
    assert setup.at[:, 1].min() > 2
    first = torch.cat([batch.unroll.rows.first for batch in batches], dim=1)
    assert len(first) == burn_in + LENGTH + 1
    assert first[burn_in + 1 :].any()
    if burn_in:
        assert first[1:burn_in].any(dim=0).logical_and(~first[:burn_in].all(dim=0)).any()
    setup.close()


@pytest.mark.parametrize("burn_in", [0, BURN_IN])
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_state_of_the_next_row_is_noticed(
    monkeypatch: pytest.MonkeyPatch, shift: int, burn_in: int
) -> None:
    layout = replace(LAYOUT, burn_in=burn_in)
    monkeypatch.setattr(StoreLayout, "state_row", (layout.state_row + shift) % LENGTH)
    setup = Setup(CONFIG, layout)
    batches = setup.batches(20, **CHANCES)
    with pytest.raises(AssertionError):
        check_all(batches)


# --- what waits for what ---------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.sampled_from([0.25, 0.75, 1.0, 2.0, 7.3]),
    batch_size=st.integers(1, 9),
    warm_up=st.integers(0, 12),
    arrivals=st.lists(st.integers(0, 8), min_size=5, max_size=30),
    patience=st.integers(1, 5),
)
def test_the_ratio_is_kept_at_every_time(
    ratio: float, batch_size: int, warm_up: int, arrivals: list[int], patience: int
) -> None:
    # Every row but the first makes an unroll.
    layout = replace(LAYOUT, unroll_length=1, burn_in=0, max_envs=1, num_pages=300)
    setup = Setup(ReplayConfig(min_rows=warm_up, ratio=ratio), layout, batch_size)
    setup.step_envs(np.arange(1))
    published = sampled = 0

    def owed(fewer: int = 0) -> float:
        """Samples that learning is behind the inserts, had there been fewer of them."""
        inserted = published - setup.store.num_ready - fewer
        return ratio * max(0, inserted - warm_up) - sampled

    for count in arrivals:
        for _ in range(count):
            assert setup.step_envs(np.arange(1))
        published += count
        for _ in range(patience):
            waiting = setup.store.num_ready
            ready = setup.replay.wait(0.0)
            inserted = published - setup.store.num_ready
            assert -1e-9 <= owed() < batch_size + ratio + 1e-9
            if not ready:
                # The learner waits for inserts only where it must.
                assert setup.store.num_ready == 0
                assert inserted < max(1, warm_up) or owed() < batch_size
                break
            assert inserted >= max(1, warm_up)
            assert owed() >= batch_size - 1e-9
            if setup.store.num_ready < waiting:
                # Not one insert too many: they wait for the learner.
                assert owed(fewer=1) < batch_size
            setup.replay.next_batch()
            sampled += batch_size
    inserted = published - setup.store.num_ready
    if inserted > warm_up:
        mean = sampled / (inserted - warm_up)
        assert setup.replay.scalars()["replay_ratio"] == pytest.approx(mean)


def test_the_learner_waits_for_enough_rows() -> None:
    setup = Setup(replace(CONFIG, min_rows=7 * LENGTH + 1), batch_size=8)
    setup.fill(9)
    for _ in range(2):
        # 8 unrolls are the warm-up, and ratio 4 wants two more for a batch.
        assert not setup.replay.wait(0.0)
        assert len(setup.replay) == 9
    assert setup.replay.scalars() == {"replay_unrolls": 9.0, "replay_ratio": 0.0}
    setup.fill(1)
    assert setup.replay.wait(0.0)
    setup.replay.next_batch()
    assert setup.replay.scalars() == {"replay_unrolls": 10.0, "replay_ratio": 4.0}


def test_there_is_no_ratio_before_learning_begins() -> None:
    setup = Setup(CONFIG)
    setup.fill(2)
    assert not setup.replay.wait(0.0)
    assert setup.replay.scalars() == {"replay_unrolls": 2.0}


# Inference pauses where the queue holds its limit: tests/seed/inference/test_loop.py.
def test_inserts_wait_in_the_queue_while_the_learner_is_behind() -> None:
    setup = Setup(CONFIG, batch_size=8)
    setup.fill(3 + 10)
    for _ in range(3):
        assert setup.replay.wait(0.0)
        assert (len(setup.replay), setup.store.num_ready) == (3 + 2, 8)
    setup.replay.next_batch()
    assert setup.replay.wait(0.0)
    assert (len(setup.replay), setup.store.num_ready) == (3 + 4, 6)


def test_inserts_what_comes_while_it_waits() -> None:
    setup = Setup(CONFIG, batch_size=8)
    ready: list[bool] = []
    thread = threading.Thread(target=lambda: ready.append(setup.replay.wait(300.0)))
    thread.start()
    while thread.is_alive():
        setup.step()
    thread.join()
    assert ready == [True]
    assert len(setup.replay) == 5


# --- what is evicted -------------------------------------------------------------------------


def test_the_oldest_are_evicted_at_capacity() -> None:
    setup = Setup(replace(CONFIG, min_rows=0, ratio=1.0), batch_size=5)
    for inserted in range(5, 100, 5):
        setup.fill(5)
        assert setup.replay.wait(0.0)
        assert len(setup.replay) == min(inserted, 12)
        numbers = numbers_of([setup.replay.next_batch() for _ in range(80)])
        assert set(numbers.tolist()) == set(range(max(0, inserted - 12), inserted))
        setup.replay._sampled = inserted
    setup.close()


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_replay_smaller_than_a_batch_works(capacity: int) -> None:
    setup = Setup(replace(CONFIG, min_rows=0, ratio=0.5), replace(LAYOUT, replay_unrolls=capacity))
    check_all(setup.batches(30, **CHANCES))
    assert len(setup.replay) == capacity
    setup.close()


def test_where_pages_are_short_the_oldest_are_evicted_and_it_goes_on() -> None:
    setup = Setup(CONFIG, TIGHT)
    check_all(setup.batches(200, breaks=0.3, ends=0.1))
    assert setup.refused > 100
    assert setup.at[:, 1].min() > 200
    setup.close()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    breaks=st.sampled_from([0.05, 0.3, 0.6]),
    spare=st.integers(2 * ENVS + 1, 12),
    burn_in=st.sampled_from([0, 1]),
)
def test_a_learner_that_waits_always_makes_room(
    seed: int, breaks: float, spare: int, burn_in: int
) -> None:
    layout = replace(LAYOUT, unroll_length=2, burn_in=burn_in, num_pages=12 + spare)
    setup = Setup(ReplayConfig(min_rows=8, ratio=1.0), layout, batch_size=4)
    setup.rng = np.random.default_rng(seed)
    for _ in range(80):
        waits = 0
        while not setup.step(breaks=breaks):
            if setup.replay.wait(0.0):
                check(setup.replay.next_batch().unroll)
            else:
                waits += 1
            assert waits <= layout.replay_unrolls
        if setup.replay.wait(0.0):
            check(setup.replay.next_batch().unroll)
    setup.close()


def test_a_learner_that_waits_for_inserts_still_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(replace(CONFIG, min_rows=100 * LENGTH), TIGHT)
    while setup.step(breaks=0.3):
        setup.replay.wait(0.0)
    setup.store.take_shortage()
    take_some, waits = setup.store.take_some, threading.Event()

    def note(limit: int, timeout_s: float) -> list[PageLinks]:
        waits.set()
        return take_some(limit, timeout_s)

    monkeypatch.setattr(setup.store, "take_some", note)
    learner = threading.Thread(target=lambda: setup.replay.wait(300.0))
    learner.start()
    waits.wait(300.0)
    envs, runs = np.arange(ENVS), np.full(ENVS, 10**6, np.uint64)
    while learner.is_alive() and not setup.store.has_room(envs, runs):
        setup.store.wait_for_release(0.1)
    in_time = learner.is_alive()
    while learner.is_alive():
        setup.step()
        setup.store.wait_for_release(0.0)
    learner.join()
    assert in_time


def test_a_sample_stays_as_it_is_when_its_pages_are_written_again() -> None:
    setup = Setup(CONFIG, TIGHT)
    early = setup.batches(20, **CHANCES)
    before = [copy.deepcopy(batch.unroll) for batch in early]
    late = setup.batches(40, **CHANCES)
    assert numbers_of(late[-1:]).min() > numbers_of(early).max()
    for batch, unroll in zip(early, before, strict=True):
        check(batch.unroll)
        assert torch.equal(batch.unroll.rows.observations, unroll.rows.observations)
        assert torch.equal(batch.unroll.agent_state, unroll.agent_state)


# --- priorities and weights ------------------------------------------------------------------


def test_unrolls_enter_with_priority_1() -> None:
    config = replace(CONFIG, priority_exponent=1.0, importance_exponent=1.0, min_rows=0)
    setup = Setup(config, batch_size=1000)
    setup.fill(12)
    setup.replay.wait(0.0)
    setup.replay.update_priorities(np.array([2, 7]), torch.tensor([3.0, 0.5]))
    batch = setup.replay.next_batch()
    numbers = numbers_of([batch]).tolist()
    assert {2, 7} < set(numbers)
    # In inverse proportion to the priority, the largest 1.
    expected = [{2: 1 / 3, 7: 2.0}.get(number, 1.0) / 2.0 for number in numbers]
    assert batch.unroll.importance.dtype == torch.float32
    assert batch.unroll.importance.tolist() == pytest.approx(expected)


def test_initial_priorities_are_asked_for_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seed.learner.replay._LARGEST_INSERT", 3)
    asked: list[Unroll] = []

    def note(unroll: Unroll) -> Tensor:
        assert not torch.is_grad_enabled()
        asked.append(unroll)
        return torch.ones(unroll.actions.shape[1])

    setup = Setup(replace(CONFIG, min_rows=8 * LENGTH), batch_size=64, initial_priorities=note)
    setup.fill(8, ends=0.1)
    ready = list(setup.store._queue._ready)
    assert not setup.replay.wait(0.0)
    assert [unroll.actions.shape for unroll in asked] == [(7, 3), (7, 3), (7, 2)]
    whole = setup.store.gather(ready).actions[BURN_IN:]
    assert torch.equal(torch.cat([unroll.actions for unroll in asked], dim=1), whole)


def filled_without_priorities() -> Setup:
    """A full replay whose unrolls entered it with priorities that are no numbers."""
    setup = Setup(
        replace(CONFIG, min_rows=0), batch_size=64,
        initial_priorities=lambda unroll: torch.full((unroll.actions.shape[1],), math.nan),
    )  # fmt: skip
    setup.fill(12)
    setup.replay.wait(0.0)
    return setup


def test_priorities_that_are_no_numbers_are_as_good_as_none() -> None:
    setup = filled_without_priorities()
    setup.replay.update_priorities(np.array([3, 9]), torch.tensor([1.0, 2.0]))
    for _ in range(10):
        assert set(numbers_of([setup.replay.next_batch()]).tolist()) == {3, 9}
    found = torch.tensor([math.nan, 1.0, math.inf, -1.0])
    setup.replay.update_priorities(np.array([3, 4, 9, 9]), found)
    assert setup.replay._priorities.priorities()[[3, 4, 9]].tolist() == [1.0, 1.0, 2.0]


def test_without_any_priority_all_are_sampled_alike() -> None:
    setup = filled_without_priorities()
    batch = setup.replay.next_batch()
    assert len(set(numbers_of([batch]).tolist())) > 5
    assert batch.unroll.importance.tolist() == [1.0] * 64
