"""Replay over the store's pages: what is in a sample, what waits for what, and what is evicted."""

from __future__ import annotations

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

from seed.config.schema import ConfigError, ReplayConfig
from seed.learner.replay import count_unrolls
from seed.learner.sources import Batch
from seed.store.layout import StoreLayout
from seed.store.pages import PageLinks
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.wire.arrays import Int64Array
from tests.seed.counting import BURN_IN, CPU, ENVS, LAYOUT, LENGTH, Setup, check, check_all

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
        newest = batch.unroll.rows.observations[""][burn_in].flatten(1)[:, -4:]  # [B, 4] int64
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


# --- what waits for what; all else about it is in test_replay_model.py -------------------------


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


# --- how much it holds ------------------------------------------------------------------------

# What the store needs without replay.
BASE = replace(LAYOUT, num_pages=30, replay_unrolls=0, burn_in=0)


@pytest.mark.parametrize(
    ("rows", "unrolls"), [(LENGTH, 1), (2 * LENGTH - 1, 1), (2 * LENGTH, 2), (6000, 1000)]
)
def test_rows_are_unrolls_of_whole_pages(rows: int, unrolls: int) -> None:
    assert count_unrolls(BASE, ReplayConfig(capacity_rows=rows)) == unrolls


@given(nbytes=st.integers(15_000, 200_000), state_size=st.integers(0, 9))
def test_gib_are_what_the_whole_store_takes(nbytes: int, state_size: int) -> None:
    base = replace(BASE, state_size=state_size)
    unrolls = count_unrolls(base, ReplayConfig(capacity_gib=nbytes / 2**30))
    store = UnrollStore(replace(base, num_pages=base.num_pages + unrolls), CPU)
    assert store.nbytes == store.layout.nbytes
    assert nbytes - base.page_nbytes < store.nbytes <= nbytes


@pytest.mark.parametrize("config", [ReplayConfig(), ReplayConfig(60, 1.0)], ids=["none", "both"])
def test_refuses_all_but_one_of_rows_and_gib(config: ReplayConfig) -> None:
    with pytest.raises(ConfigError, match=r"^replay.capacity_rows = .*capacity_gib = .*one of the"):
        count_unrolls(BASE, config)


@pytest.mark.parametrize(
    ("config", "given", "held"),
    [
        (ReplayConfig(capacity_rows=LENGTH - 1), "replay.capacity_rows = 5", 0),
        (ReplayConfig(capacity_gib=1e-9), "replay.capacity_gib = 1e-09", 0),
        (ReplayConfig(capacity_gib=(BASE.nbytes + BASE.page_nbytes - 1) / 2**30), "gib = ", 0),
    ],
)
def test_refuses_less_than_one_unroll(config: ReplayConfig, given: str, held: int) -> None:
    with pytest.raises(ConfigError, match=rf"{given}.*: holds {held} unrolls of 6 rows") as refused:
        count_unrolls(BASE, config)
    assert f"30 pages of {BASE.page_nbytes} bytes" in str(refused.value)


# Else learning would never start.
@pytest.mark.parametrize("min_rows", [60, 61, 66])
def test_refuses_to_wait_for_more_rows_than_it_holds(min_rows: int) -> None:
    needed = math.ceil(min_rows / LENGTH)
    config = ReplayConfig(capacity_rows=LENGTH * needed, min_rows=min_rows)
    assert count_unrolls(BASE, config) == needed
    with pytest.raises(ConfigError, match=rf"at least {needed} \(replay.min_rows = {min_rows}\)"):
        count_unrolls(BASE, replace(config, capacity_rows=LENGTH * needed - 1))
