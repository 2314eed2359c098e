"""The store against its model, and what it does while the learner waits or takes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.config.schema import Config, InferenceConfig, LearnerConfig, NetworkConfig
from seed.contract.loading import load_algorithm
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store, queue_limit
from seed.store.layout import Column
from seed.store.pages import PageLinks
from seed.store.rows import Arrivals
from seed.store.unrolls import UnrollStore
from seed.wire.spaces import SpaceSpec
from tests.seed.store_model import CPU, LAYOUT, Model, Row
from tests.seed.writing import place_and_fill

OPERATION: st.SearchStrategy[Any] = st.one_of(
    st.tuples(
        st.just("write"),
        st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True),
        st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 2]), min_size=5, max_size=5),
    ),
    st.tuples(st.sampled_from(["drop", "break"]), st.lists(st.integers(0, 4), max_size=2,
              unique=True), st.just([])),
    st.tuples(st.sampled_from(["take", "take", "release"]), st.just([]), st.just([])),
)  # fmt: skip


@settings(max_examples=70, deadline=None)
@given(
    operations=st.lists(OPERATION, min_size=30, max_size=120),
    unroll_length=st.integers(1, 4),
    frame_stack=st.integers(1, 5),
    burn_in=st.integers(0, 3),
    num_pages=st.integers(14, 40),
    batch_size=st.integers(1, 3),
    staggered=st.booleans(),
)
def test_follows_the_model(
    operations: list[tuple[str, list[int], list[int]]],
    unroll_length: int,
    frame_stack: int,
    burn_in: int,
    num_pages: int,
    batch_size: int,
    staggered: bool,
) -> None:
    frame_stack = min(frame_stack, unroll_length + 1)
    # As many environments as pages, so that `has_room` can tell whether all pages are free.
    model = Model(
        replace(
            LAYOUT, unroll_length=unroll_length, num_pages=num_pages, max_envs=num_pages,
            frame_stack=frame_stack,
            burn_in=min(burn_in, unroll_length - max(1, frame_stack - 1)), staggered=staggered,
        )
    )  # fmt: skip
    held: list[tuple[list[PageLinks], list[list[Row]]]] = []
    for operation, env_ids, ends in operations:
        if operation == "write":
            model.write(env_ids, ends[: len(env_ids)])
        elif operation == "drop":
            model.drop(env_ids)
        elif operation == "break":
            for env_id in env_ids:
                model.break_history(env_id)
        elif operation == "take":
            take(model, held, batch_size)
        elif held:
            # Read as late as can be: held pages must not have been written again.
            check_and_release(model, *held.pop(0))
    finish(model, held)


def take(model: Model, held: list[Any], count: int) -> None:
    assert model.store.num_ready == len(model.queue)
    pages = model.store.take(count, 0)
    if len(model.queue) < count:
        assert pages == []
    else:
        held.append((pages, model.queue[:count]))
        del model.queue[:count]


def check_and_release(model: Model, pages: list[PageLinks], histories: list[list[Row]]) -> None:
    model.check_unroll(model.store.gather(pages), histories)
    acts = model.store.gather_without_observations(np.array(pages))
    model.check_acts(acts, model.row_index(histories, burn_in=0), observed=False)
    model.store.release(pages)


def finish(model: Model, held: list[Any]) -> None:
    """Drops and reads everything, and then every page must be free."""
    everything = np.arange(model.layout.num_pages)
    fresh = np.full(len(everything), 10**6, np.uint64)
    model.drop(everything.tolist())
    if model.queue:
        take(model, held, len(model.queue))
    if held:
        assert not model.store.has_room(everything, fresh)
    for pages, histories in held:
        check_and_release(model, pages, histories)
    assert model.store.has_room(everything, fresh)


def write_rows(model: Model, count: int, ends: dict[int, int] | None = None) -> None:
    for t in range(count):
        model.write([0], [(ends or {}).get(t, 0)])


def make_model(**changes: Any) -> Model:
    return Model(replace(LAYOUT, **changes))


def test_row_t_is_row_0_of_the_next_unroll() -> None:
    model = make_model()
    write_rows(model, 10, {4: 1})
    pages = model.store.take(3, 0)
    assert pages is not None
    unroll = model.store.gather(pages)
    rows = unroll.rows
    for column in (rows.observations, rows.previous_actions, rows.rewards, rows.terminated,
                   rows.first, unroll.actions, unroll.policy_versions,
                   unroll.behaviour["logits"]):  # fmt: skip
        assert torch.equal(column[-1, 0], column[0, 1])
        assert torch.equal(column[-1, 1], column[0, 2])


def test_gathered_tensors_have_the_promised_dtypes() -> None:
    model = make_model()
    write_rows(model, 4)
    unroll = model.store.gather(model.store.take(1, 0) or [])
    assert unroll.rows.observations.shape == (4, 1, 3, 2)
    assert unroll.rows.rewards.dtype == torch.float32
    assert unroll.rows.first.dtype == unroll.rows.terminated.dtype == torch.bool
    assert unroll.policy_versions.dtype == torch.int64
    assert unroll.agent_state.shape == (1, 2)


def test_burn_in_is_the_end_of_the_page_before() -> None:
    model = make_model(burn_in=1)
    write_rows(model, 7)
    unroll = model.store.gather(model.store.take(2, 0))
    model.check_unroll(unroll, model.queue)
    newest = unroll.rows.observations[:, :, -1, 0]  # [K + T + 1, B] int64
    assert newest.tolist() == [[0, 3], [1, 4], [2, 5], [3, 6], [4, 7]]
    assert unroll.rows.first[:, 0].tolist() == [True, True, False, False, False]
    assert unroll.agent_state.tolist() == [[0.0, 0.0], [3 * 2.5, 3 * 3.5]]


@pytest.mark.parametrize("burn_in", [0, 1])
def test_links_may_be_a_list_or_an_array(burn_in: int) -> None:
    model = make_model(burn_in=burn_in)
    write_rows(model, 10, {4: 1})
    pages = model.store.take(3, 0)
    for links in (pages, np.array(pages)):
        model.check_unroll(model.store.gather(links), model.queue)
        acts = model.store.gather_without_observations(links)
        model.check_acts(acts, model.row_index(model.queue, burn_in=0), observed=False)


def test_gathered_acts_leave_out_all_that_is_large() -> None:
    model = make_model(burn_in=1)
    write_rows(model, 7)
    unroll = model.store.gather_without_observations(model.store.take(2, 0))
    assert unroll.burn_in == 0
    assert unroll.rows.observations.shape == (4, 2, 0)
    assert unroll.agent_state.shape == (2, 0)


@pytest.mark.parametrize("burn_in", [0, 1])
def test_a_gathered_batch_is_a_copy(burn_in: int) -> None:
    model = make_model(burn_in=burn_in)
    write_rows(model, 7)
    pages = model.store.take(2, 0)
    histories, model.queue = model.queue, []
    unroll = model.store.gather(pages)
    model.store.release(pages)
    for _ in range(40):
        model.break_history(0)
        model.write([0], [0])
    model.check_unroll(unroll, histories)


def test_take_gives_nothing_before_there_are_enough() -> None:
    model = make_model()
    write_rows(model, 6)
    assert model.store.num_ready == 1
    assert model.store.take(2, 0) == []
    assert model.store.num_ready == 1


def test_waiting_for_a_release_makes_room() -> None:
    model = make_model(num_pages=3, max_envs=3, unroll_length=2, frame_stack=1)
    write_rows(model, 6)
    env, run = np.array([0]), np.array([1], np.uint64)
    assert not model.store.has_room(env, run)
    model.store.release(model.store.take(2, 0) or [])
    model.store.wait_for_release(0.0)
    assert model.store.has_room(env, run)


@pytest.mark.parametrize("move", ["take", "take_some", "release"])
def test_whatever_the_learner_moves_ends_the_wait_for_it(move: str) -> None:
    model = make_model()
    write_rows(model, 8)
    store = model.store
    pages = store.take(1, 0)
    store.wait_for_release(0.0)
    thread = threading.Thread(target=lambda: store.wait_for_release(3600.0), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    if move == "release":
        store.release(pages)
    else:
        getattr(store, move)(1, 0.0)
    thread.join(300.0)
    assert not thread.is_alive()


# Else a move between a look at the store and the wait would be waited for in vain.
def test_what_was_moved_before_the_wait_ends_it_too() -> None:
    model = make_model()
    write_rows(model, 4)
    model.store.take(1, 0)
    thread = threading.Thread(target=lambda: model.store.wait_for_release(3600.0), daemon=True)
    thread.start()
    thread.join(300.0)
    assert not thread.is_alive()


# "cuda" is whichever GPU a thread works on, and the store is on one of them.
def test_the_device_is_one_in_all_threads() -> None:
    store = UnrollStore(LAYOUT, torch.device("cpu", 0))
    assert store.device == store.columns["actions"].device == CPU


def test_take_some_gives_the_oldest_that_are_there() -> None:
    model = make_model()
    write_rows(model, 16)
    pages = [model.store.take_some(limit, 0.0) for limit in (3, 10)]
    assert [len(taken) for taken in pages] == [3, 2]
    model.check_unroll(model.store.gather(pages[0] + pages[1]), model.queue)
    assert model.store.take_some(10, 0.0) == []


def test_take_some_waits_for_the_first() -> None:
    model = make_model()
    write_rows(model, 3)
    taken: list[PageLinks] = []
    thread = threading.Thread(target=lambda: taken.extend(model.store.take_some(5, 20.0)))
    thread.start()
    write_rows(model, 1)
    thread.join()
    assert len(taken) == 1


def test_tells_once_how_many_pages_were_lacking() -> None:
    model = make_model(num_pages=5, max_envs=5, unroll_length=2, frame_stack=1)
    write_rows(model, 6)
    envs, runs = np.arange(5), np.ones(5, np.uint64)
    assert model.store.take_shortage() == 0
    # Two are free; the new page of environment 0 and four open ones are needed.
    assert not model.store.has_room(envs, runs)
    assert [model.store.take_shortage() for _ in range(2)] == [3, 0]
    assert not model.store.has_room(envs[:3], runs[:3])
    assert model.store.take_shortage() == 1
    assert not model.store.has_room(envs, runs)
    # There is room for fewer, whatever was lacking before.
    assert model.store.has_room(envs[:2], runs[:2])
    assert model.store.take_shortage() == 0


def test_an_image_column_is_stored_once() -> None:
    form = Column((84, 84), torch.uint8)
    layout = replace(LAYOUT, observation=form, unroll_length=20, num_pages=50, frame_stack=4)
    store = UnrollStore(layout, CPU)
    assert 84 * 84 * 1000 <= store.nbytes <= 1.05 * 84 * 84 * 1000


CONFIG = Config(
    network=NetworkConfig(torso="mlp", hidden_sizes=(2,)),
    inference=InferenceConfig(max_envs=4, device="cpu"),
    learner=LearnerConfig(unroll_length=2, batch_size=2, device="cpu"),
    algorithm=load_algorithm("vtrace").Config(),
)


def make_served_store(config: Config) -> UnrollStore:
    spaces = Spaces(SpaceSpec("float32", (1,)), SpaceSpec("int64", (), 2))
    algorithm = load_algorithm("vtrace")
    agent = make_agent(algorithm, config, spaces, CPU)
    return UnrollStore(plan_store(algorithm, config, spaces, agent, CPU), CPU)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), batch_size=st.integers(1, 4), queue_batches=st.sampled_from([1.0, 1.6, 3.0]))
def test_there_is_always_room_while_the_learner_waits(
    data: st.DataObject, batch_size: int, queue_batches: float
) -> None:
    learner = replace(CONFIG.learner, batch_size=batch_size, queue_batches=queue_batches)
    config = replace(CONFIG, learner=learner)
    store, limit = make_served_store(config), queue_limit(config)
    runs = np.ones(4, np.uint64)
    for _ in range(data.draw(st.integers(1, 80))):
        if store.num_ready >= batch_size and data.draw(st.booleans()):
            store.release(store.take(batch_size, 0) or [])
        # Seldom, so that histories grow long enough to hold pages through their neighbours.
        broken = data.draw(st.sampled_from([0, 0, 0, 0, 0b0001, 0b0110, 0b1111]))
        runs += np.array([broken >> env & 1 for env in range(4)], np.uint64)
        mask = data.draw(st.integers(1, 15))
        envs = np.array([env for env in range(4) if mask >> env & 1])
        if store.num_ready < limit and store.has_room(envs, runs[envs]):
            write_blank_rows(store, envs, runs[envs])
        if store.num_ready < batch_size:
            # The worst that can arrive: a new history of every environment.
            assert store.has_room(np.arange(4), runs + np.uint64(1000))


def write_blank_rows(store: UnrollStore, envs: Any, run_ids: Any) -> None:
    n = len(envs)
    blank = torch.zeros(n, dtype=torch.bool)
    arrived = Arrivals(torch.zeros(n, 1), torch.zeros(n), blank, blank)
    row_index, complete = place_and_fill(store, envs, run_ids, np.zeros(n, np.bool_), arrived)
    actions, behaviour = torch.zeros(n, dtype=torch.int64), {"policy": torch.zeros(n, 2)}
    version = torch.zeros((), dtype=torch.int32)
    store.write_actions(row_index, actions, behaviour, torch.zeros(n, 0), version)
    store.publish(complete)
