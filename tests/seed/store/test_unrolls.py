"""The store against its model: rows, pages in use, what is dropped, and what lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.config.schema import Config, InferenceConfig, LearnerConfig, NetworkConfig
from seed.contract.loading import load_algorithm
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store, queue_limit
from seed.store.layout import Column
from seed.store.pages import PageLinks
from seed.store.rows import Arrivals, Unroll
from seed.store.unrolls import UnrollStore
from seed.wire.spaces import SpaceSpec
from tests.seed.store_model import CPU, LAYOUT, Model, Whole
from tests.seed.writing import write_rows

OPERATION: st.SearchStrategy[Any] = st.one_of(
    st.tuples(
        st.just("write"),
        st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True),
        st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 2]), min_size=5, max_size=5),
    ),
    st.tuples(st.sampled_from(["drop", "break"]), st.lists(st.integers(0, 4), max_size=2,
              unique=True), st.just([])),
    st.tuples(st.sampled_from(["take", "take some", "release"]), st.just([]), st.just([])),
)  # fmt: skip


class Learner:
    """Takes unrolls, and reads them as late as it can: held pages must not be written again."""

    def __init__(self, model: Model) -> None:
        self.model, self.store = model, model.store
        self.held: list[tuple[list[PageLinks], list[Whole]]] = []
        self.copies: list[tuple[Unroll, list[Whole]]] = []

    def take(self, count: int, *, some: bool = False) -> None:
        queue = self.model.queue
        assert self.store.num_ready == len(queue)
        pages = (self.store.take_some if some else self.store.take)(count, 0.0)
        if some:
            count = min(count, len(queue))
        if not count or len(queue) < count:
            assert pages == []
            return
        assert self.store.owners(pages) == [unroll.history.env_id for unroll in queue[:count]]
        self.held.append((pages, queue[:count]))
        del queue[:count]

    def release(self) -> None:
        pages, unrolls = self.held.pop(0)
        unroll = self.store.gather(pages)
        self.model.check_unroll(unroll, unrolls)
        self.copies.append((unroll, unrolls))
        acts = self.store.gather_without_observations(np.array(pages))
        self.model.check_acts(acts, self.model.row_index(unrolls, burn_in=0), observed=False)
        self.model.check_unroll(self.store.gather(np.array(pages)), unrolls)
        self.store.release(pages)
        self.model.read(unrolls)

    def finish(self) -> None:
        """Reads everything; then every page is free, and what was copied is as it was."""
        self.model.drop(list(self.model.current))
        self.take(max(1, len(self.model.queue)))
        while self.held:
            self.release()
        assert self.model.pages_in_use() == 0
        self.model.check_pages()
        for unroll, unrolls in self.copies:
            self.model.check_unroll(unroll, unrolls)


@settings(max_examples=70, deadline=None)
@given(
    operations=st.lists(OPERATION, min_size=30, max_size=120),
    unroll_length=st.integers(1, 4),
    frame_stack=st.integers(1, 5),
    burn_in=st.integers(0, 3),
    num_pages=st.integers(5, 40),
    batch_size=st.integers(1, 3),
    staggered=st.booleans(),
    evaluation_share=st.sampled_from([0.0, 0.0, 0.4, 1.0]),
)
def test_follows_the_model(
    operations: list[tuple[str, list[int], list[int]]],
    unroll_length: int,
    frame_stack: int,
    burn_in: int,
    num_pages: int,
    batch_size: int,
    staggered: bool,
    evaluation_share: float,
) -> None:
    frame_stack = min(frame_stack, unroll_length + 1)
    model = Model(
        replace(
            LAYOUT, unroll_length=unroll_length, num_pages=num_pages, max_envs=5,
            frame_stack=frame_stack,
            burn_in=min(burn_in, unroll_length - max(1, frame_stack - 1)), staggered=staggered,
            evaluation_share=evaluation_share,
        )
    )  # fmt: skip
    learner = Learner(model)
    for operation, env_ids, ends in operations:
        if operation == "write":
            model.write(env_ids, ends[: len(env_ids)])
        elif operation == "drop":
            model.drop(env_ids)
        elif operation == "break":
            for env_id in env_ids:
                model.break_history(env_id)
        elif operation != "release":
            learner.take(batch_size, some=operation == "take some")
        elif learner.held:
            learner.release()
        model.check_pages()
    learner.finish()


def test_gathered_tensors_have_the_promised_forms() -> None:
    model = Model(replace(LAYOUT, burn_in=1))
    for _ in range(7):
        model.write([0], [0])
    pages = model.store.take(2, 0.0)
    unroll = model.store.gather(pages)
    forms = {part: values.shape for part, values in unroll.rows.observations.items()}
    assert forms == {"hand/camera": (5, 2, 3, 2), "speed": (5, 2)}
    assert unroll.rows.rewards.dtype == torch.float32
    assert unroll.rows.first.dtype == unroll.rows.terminated.dtype == torch.bool
    assert unroll.policy_versions.dtype == torch.int64
    assert unroll.agent_state.shape == (2, 2)
    assert unroll.importance.tolist() == [1.0, 1.0]
    acts = model.store.gather_without_observations(pages)
    assert acts.burn_in == 0
    assert acts.rows.observations == {}
    assert acts.agent_state.shape == (2, 0)


# "cuda" is whichever GPU a thread works on, and the store is on one of them.
def test_the_device_is_one_in_all_threads() -> None:
    store = UnrollStore(LAYOUT, torch.device("cpu", 0))
    assert store.device == store.columns["actions"].device == CPU


def test_an_image_column_is_stored_once() -> None:
    form = Column((84, 84), torch.uint8)
    layout = replace(LAYOUT, observations={"": form}, unroll_length=20, num_pages=50, frame_stack=4)
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
    arrived = Arrivals({"": torch.zeros(n, 1)}, torch.zeros(n), blank, blank)
    row_index, complete = write_rows(store, envs, run_ids, np.zeros(n, np.bool_), arrived)
    actions, behaviour = torch.zeros(n, dtype=torch.int64), {"policy": torch.zeros(n, 2)}
    version = torch.zeros((), dtype=torch.int32)
    store.write_actions(row_index, actions, behaviour, torch.zeros(n, 0), version)
    store.publish(complete)
