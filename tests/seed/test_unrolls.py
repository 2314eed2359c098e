"""The store against a model that keeps every row of every history in a plain list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.config import Config, InferenceConfig, LearnerConfig, NetworkConfig
from seed.contract import load_algorithm
from seed.layout import Column, StoreLayout
from seed.pages import PageLinks
from seed.rows import Arrived, Rows, Unroll
from seed.serving import make_agent, make_store, queue_limit
from seed.spaces import Spaces, SpaceSpec
from seed.unrolls import UnrollStore

CPU = torch.device("cpu")
LAYOUT = StoreLayout(
    unroll_length=3,
    num_pages=24,
    max_envs=24,
    frame_stack=3,
    state_size=2,
    observation=Column((2,), torch.int64),
    action=Column((), torch.int64),
    behaviour={"logits": Column((3,), torch.float32), "value": Column((), torch.float32)},
)


@dataclass
class Row:
    """What one environment sent and what was chosen there; every number is unique."""

    number: int
    first: bool
    reward: float
    terminated: bool
    truncated: bool

    @property
    def observation(self) -> list[int]:
        return [self.number, -self.number]

    @property
    def state(self) -> list[float]:
        return [self.number + 0.25, self.number + 0.5]


class Model:
    """Drives a store and remembers everything that went in."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self.store = UnrollStore(layout, CPU)
        self.run_ids = dict.fromkeys(range(layout.max_envs), 1)
        self.histories: dict[int, list[Row]] = {}
        self.queue: list[list[Row]] = []
        self.versions: dict[int, int] = {}
        self.count = 0

    def drop(self, env_ids: list[int]) -> None:
        self.store.drop(np.array(env_ids, np.int64))
        for env_id in env_ids:
            self.histories.pop(env_id, None)

    def break_history(self, env_id: int) -> None:
        self.run_ids[env_id] += 1
        self.histories.pop(env_id, None)

    def write(self, env_ids: list[int], ends: list[int]) -> None:
        """One row of each environment, if the store has room; ends: 1 terminated, 2 truncated."""
        run_ids = np.array([self.run_ids[env_id] for env_id in env_ids], np.uint64)
        if not self.store.has_room(np.array(env_ids), run_ids):
            return
        rows = [self.add_row(env_id, end) for env_id, end in zip(env_ids, ends, strict=True)]
        arrived = Arrived(
            torch.tensor([row.observation for row in rows]),
            torch.tensor([row.reward for row in rows]),
            torch.tensor([row.terminated for row in rows]),
            torch.tensor([row.truncated for row in rows]),
        )
        first = np.array([row.first for row in rows])
        new, seen = self.store.write(np.array(env_ids), run_ids, first, arrived)
        self.check_seen(seen, env_ids)
        numbers = torch.tensor([row.number for row in rows])
        behaviour = {
            "logits": numbers[:, None] + torch.tensor([0.0, 0.1, 0.2]),
            "value": numbers + 0.75,
        }
        states = torch.tensor([row.state for row in rows])
        self.store.write_acts(new, numbers * 10, behaviour, states, int(numbers[0]))
        for row in rows:
            self.versions[row.number] = int(numbers[0])
        self.store.publish(new.complete)

    def add_row(self, env_id: int, end: int) -> Row:
        """The next row of an environment; the first where its history or episode begins."""
        history = self.histories.setdefault(env_id, [])
        first = bool(history) and (history[-1].terminated or history[-1].truncated)
        self.count += 1
        row = Row(self.count, first, self.count / 8, end == 1, end == 2)
        history.append(row)
        if len(history) > 1 and (len(history) - 1) % self.layout.unroll_length == 0:
            self.queue.append(list(history))
        return row

    def stack(self, history: list[Row], index: int) -> list[list[int]]:
        """The newest observations up to a row, zeros before its episode."""
        start = max(i for i in range(index + 1) if history[i].first or i == 0)
        oldest = index - self.layout.frame_stack + 1
        return [history[i].observation if i >= start else [0, 0] for i in range(oldest, index + 1)]

    def check_seen(self, seen: Rows, env_ids: list[int]) -> None:
        histories = [self.histories[env_id] for env_id in env_ids]
        self.check_rows(seen, [[(history, len(history) - 1) for history in histories]])

    def check_rows(self, rows: Rows, places: list[list[tuple[list[Row], int]]]) -> None:
        """Compares rows [T, B] with the histories' rows at these indices."""
        for t, batch in enumerate(places):
            for b, (history, index) in enumerate(batch):
                row = history[index]
                begins = row.first or index == 0
                stack = self.stack(history, index)
                observation = stack if self.layout.frame_stack > 1 else row.observation
                assert rows.observations[t, b].tolist() == observation
                expected_action = 0 if begins else history[index - 1].number * 10
                assert rows.previous_actions[t, b] == expected_action
                assert rows.rewards[t, b] == row.reward
                assert rows.terminated[t, b] == row.terminated
                assert rows.truncated[t, b] == row.truncated
                assert rows.first[t, b] == begins

    def check_unroll(self, unroll: Unroll, histories: list[list[Row]]) -> None:
        """Compares a gathered batch with the ends of these histories."""
        length = self.layout.unroll_length
        start = [len(history) - 1 - length for history in histories]
        places = [
            [(history, begin + t) for history, begin in zip(histories, start, strict=True)]
            for t in range(length + 1)
        ]
        assert unroll.actions.shape == (length + 1, len(histories))
        self.check_rows(unroll.rows, places)
        for t, batch in enumerate(places):
            for b, (history, index) in enumerate(batch):
                number = history[index].number
                assert unroll.actions[t, b] == number * 10
                expected = torch.tensor(number) + torch.tensor([0.0, 0.1, 0.2])
                assert torch.equal(unroll.behaviour["logits"][t, b], expected)
                assert unroll.behaviour["value"][t, b] == number + 0.75
                assert unroll.policy_versions[t, b] == self.versions[number]
        states = [history[begin].state for history, begin in zip(histories, start, strict=True)]
        assert unroll.agent_state.tolist() == states


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
    num_pages=st.integers(14, 40),
    batch_size=st.integers(1, 3),
)
def test_follows_the_model(
    operations: list[tuple[str, list[int], list[int]]],
    unroll_length: int,
    frame_stack: int,
    num_pages: int,
    batch_size: int,
) -> None:
    # As many environments as pages, so that `has_room` can tell whether all pages are free.
    model = Model(
        replace(
            LAYOUT, unroll_length=unroll_length, num_pages=num_pages, max_envs=num_pages,
            frame_stack=min(frame_stack, unroll_length + 1),
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


def test_a_gathered_batch_is_a_copy() -> None:
    model = make_model()
    write_rows(model, 4)
    pages = model.store.take(1, 0) or []
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
    return make_store(algorithm, config, spaces, agent, CPU)


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
    arrived = Arrived(torch.zeros(n, 1), torch.zeros(n), blank, blank)
    new, _ = store.write(envs, run_ids, np.zeros(n, np.bool_), arrived)
    behaviour = {"policy": torch.zeros(n, 2)}
    store.write_acts(
        new, torch.zeros(n, dtype=torch.int64), behaviour, torch.zeros(n, 0), policy_version=0
    )
    store.publish(new.complete)


@pytest.mark.parametrize(("batches", "limit"), [(1.0, 3), (1.5, 5), (4.0, 12)])
def test_queue_limit_rounds_up(batches: float, limit: int) -> None:
    learner = replace(CONFIG.learner, batch_size=3, queue_batches=batches)
    assert queue_limit(replace(CONFIG, learner=learner)) == limit
