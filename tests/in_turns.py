"""A training whose parts take turns in one thread: the same at every speed of the machine.

Acting, store and learning are the product's own. Sockets and threads are left out: how late weights
come would depend on them, and is up to `learner.publish_every_updates` alone here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envservers.environments.factory import Group, make_group
from envservers.main import group_sizes
from envservers.session import Session
from seed.config.loading import parse_command_line
from seed.config.schema import Config
from seed.contract import Algorithm
from seed.contract.loading import (
    acting_part,
    load_algorithm,
    load_algorithm_config,
    optional_initial_priorities,
)
from seed.inference.batcher import GroupRows, InferenceBatch
from seed.inference.forward import ForwardPass
from seed.inference.session_table import SessionTable
from seed.inference.sessions import Offer
from seed.learner.loop import Learner, Progress
from seed.learner.replay import Replay
from seed.learner.sources import Batch, BatchSource, QueueSource
from seed.run.build import prepare_to_act
from seed.run.description import Spaces
from seed.run.metrics import EVALUATION_WINDOW, RETURN_WINDOW
from seed.run.plan import make_agent, plan_store
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.wire import codec, messages
from seed.wire.arrays import Int64Array

_CPU = torch.device("cpu")


class Trained(NamedTuple):
    """How a training went.

    Attributes:
        return_mean: Of its last 100 episodes, or 20 of evaluation environments, if it has some.
        env_steps: Steps that it took.
        policy_lag_mean: Over all its updates.
        scalars: What the last update said, by name.
    """

    return_mean: float
    env_steps: int
    policy_lag_mean: float
    scalars: dict[str, float]


def train(run_dir: Path, config: str, *overrides: object, goal: float = math.inf) -> Trained:
    """Trains a configuration until `return_mean` has reached the goal, or else to its end."""
    arguments = [config, "--run-dir", run_dir, "--checkpoint-interval-s", 10**9, *overrides]
    parsed = parse_command_line([str(word) for word in arguments], load_algorithm_config).config
    # In a thread of its own: torch's number of threads is its alone.
    with ThreadPoolExecutor(1) as thread, torch.random.fork_rng(devices=[]):
        return thread.submit(_train, parsed, goal).result()


def _train(config: Config, goal: float) -> Trained:
    algorithm = load_algorithm(config.algorithm_name)
    with _make_groups(config) as groups:
        spaces = Spaces(groups[0].observation, groups[0].action)
        agent, twin = (make_agent(algorithm, config, spaces, _CPU) for _ in range(2))
        acting_agent = acting_part(algorithm, twin)
        prepare_to_act(acting_agent)
        replay = algorithm.DATA_SOURCE == "replay"
        layout = plan_store(algorithm, config, spaces, agent, _CPU, replay=replay)
        store = UnrollStore(layout, _CPU)
        forward = ForwardPass(
            algorithm, config.algorithm, acting_agent, store, config.inference.max_batch
        )
        slot, stop = WeightSlot(), threading.Event()
        acting = Acting(config, groups, forward, store, slot)
        turns = Turns(_make_source(algorithm, config, store), acting, goal, stop)
        learner = Learner(
            config, algorithm, agent, turns, slot, lambda: Progress(env_steps=acting.env_steps), {}
        )
        learner.publish()
        torch.manual_seed(config.seed)
        learner.run(stop)
    updates = [learner.records.get().scalars for _ in range(learner.records.qsize())]
    lags = [scalars["policy_lag_mean"] for scalars in updates if "policy_lag_mean" in scalars]
    return Trained(acting.return_mean, acting.env_steps, statistics.fmean(lags), updates[-1])


@contextlib.contextmanager
def _make_groups(config: Config) -> Iterator[list[Group]]:
    sizes = group_sizes(config.local.envs_per_server, config.local.groups_per_server)
    environment = dataclasses.asdict(config.environment)
    with contextlib.ExitStack() as stack:
        groups = [make_group(environment, size) for size in sizes]
        for group in groups:
            stack.callback(group.close)
        yield groups


def _make_source(algorithm: Algorithm, config: Config, store: UnrollStore) -> BatchSource:
    batch_size = config.learner.batch_size
    if algorithm.DATA_SOURCE == "queue":
        return QueueSource(store, batch_size)
    initial = optional_initial_priorities(algorithm)
    return Replay(
        store, batch_size, config.replay, np.random.default_rng(config.seed),
        initial and (lambda unroll: initial(unroll, config.algorithm)),
    )  # fmt: skip


class Acting:
    """One environment server and the network that acts in its environments, without a socket.

    Attributes:
        env_steps: Steps of all environments.
    """

    def __init__(
        self, config: Config, groups: list[Group], forward: ForwardPass, store: UnrollStore,
        slot: WeightSlot,
    ) -> None:  # fmt: skip
        """Resets all environments."""
        self.env_steps = 0
        self._forward, self._store, self._slot = forward, store, slot
        self._observation = groups[0].observation
        self._counted = bool(store.evaluation.any())
        self._returns: deque[float] = deque(
            maxlen=EVALUATION_WINDOW if self._counted else RETURN_WINDOW
        )
        table = SessionTable(
            config.inference.max_envs, config.inference.max_batch, config.inference.max_envs_per_key
        )
        hello = messages.Hello(1, tuple(group.num_envs for group in groups), "in turns")
        opened = table.open(hello, b"", 0.0, "")
        self._env_ids = opened.env_ids
        forward.set_connected(table.env_ids)
        offer = Offer({}, groups[0].observation, groups[0].action, (config.seed, 0))
        seeds = offer.draw_seeds(table.env_ids, np.zeros(hello.num_envs, np.int64))
        welcome = offer.welcome(opened.number, opened.all_env_ids, seeds)
        self._session = Session(welcome, groups)
        self._waiting = deque(self._session.first_steps())

    @property
    def return_mean(self) -> float:
        """As the metrics have it of the episodes that count, NaN before there are so many."""
        enough = len(self._returns) == self._returns.maxlen
        return statistics.fmean(self._returns) if enough else math.nan

    def act(self) -> None:
        """One group's rows are acted on with the newest weights, and the group is stepped."""
        weights = self._slot.take()
        if weights is not None:
            self._forward.load_weights(weights)
        step = self._waiting[0]
        env_ids = self._env_ids[step.group]
        arrays = codec.check_step(step, self._observation, len(env_ids))
        batch = InferenceBatch.of([GroupRows(env_ids, arrays)])
        if not self._store.has_room(batch.env_ids, batch.run_ids):
            # Replay has learned of it by this question, and makes room.
            return
        actions, complete = self._forward.run(batch)
        self._store.publish(complete)
        self._waiting.popleft()
        first = np.count_nonzero(arrays.flags & messages.FIRST)
        self.env_steps += len(env_ids) - int(first)
        for index, _, episode_return in arrays.episodes.tolist():
            if self._store.evaluation[env_ids[index]] == self._counted:
                self._returns.append(episode_return)
        answer = messages.Actions(step.session, step.group, step.seq, actions.tobytes())
        self._waiting.append(self._session.advance(answer))


class Turns:
    """A source that acts while there is no batch; ends the training where the goal is reached."""

    def __init__(
        self, source: BatchSource, acting: Acting, goal: float, stop: threading.Event
    ) -> None:
        """In front of the algorithm's own source."""
        self.lockstep = source.lockstep
        self._source, self._acting, self._goal, self._stop = source, acting, goal, stop

    def wait(self, timeout_s: float) -> bool:
        """Acts, however long it takes, until there is a batch."""
        while not self._source.wait(0.0):
            self._acting.act()
        if self._acting.return_mean >= self._goal:
            self._stop.set()
        return True

    def next_batch(self) -> Batch:
        """The source's."""
        return self._source.next_batch()

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        """The source's."""
        self._source.update_priorities(numbers, priorities)

    def scalars(self) -> dict[str, float]:
        """The source's."""
        return self._source.scalars()
