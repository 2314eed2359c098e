"""How the acting side is put together from a configuration and an algorithm."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import (
    Config,
    ConfigError,
    InferenceConfig,
    LearnerConfig,
    NetworkConfig,
    ReplayConfig,
)
from seed.contract import ActOutput
from seed.contract.loading import load_algorithm
from seed.inference.loop import Inference
from seed.process.threads import ThreadGroup
from seed.run import serving
from seed.run.serving import make_agent, make_inference, make_store, plan_store, queue_limit
from seed.run.spaces import Spaces
from seed.store.layout import Column
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.wire.spaces import SpaceSpec
from tests.seed.acting import Shown, acting
from tests.seed.central import Dealer

CPU = torch.device("cpu")
SPACES = Spaces(SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 3))
VTRACE = load_algorithm("vtrace")
CONFIG = Config(
    network=NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=5, frame_stack=2),
    inference=InferenceConfig(address="tcp://127.0.0.1:*", max_envs=6, max_batch=6),
    learner=LearnerConfig(unroll_length=7, batch_size=3, queue_batches=1.5),
    algorithm=VTRACE.Config(),
)
SQUARE = SpaceSpec("float32", (2, 2))


class Constant:
    """An algorithm that always does the same."""

    def __init__(self, action: Tensor) -> None:
        self.action = action
        self.algorithm = acting(self._choose)
        self.agent = nn.Linear(1, 1)
        cast(Any, self.agent).state_size = 0

    def _choose(self, shown: Shown) -> ActOutput:
        batch = shown.rows.rewards.shape[1]
        return ActOutput(self.action.expand(batch, *self.action.shape), {}, shown.agent_state)

    def make_store(
        self, action: SpaceSpec, config: Config = CONFIG, *, replay: bool = False
    ) -> UnrollStore:
        spaces = Spaces(SPACES.observation, action)
        return make_store(self.algorithm, config, spaces, self.agent, CPU, replay=replay)


def weights(agent: nn.Module) -> list[Tensor]:
    return list(agent.parameters())


def test_agents_of_one_seed_are_equal() -> None:
    first, second = (make_agent(VTRACE, CONFIG, SPACES, CPU) for _ in range(2))
    other = make_agent(VTRACE, replace(CONFIG, seed=2), SPACES, CPU)
    assert all(map(torch.equal, weights(first), weights(second)))
    assert not all(map(torch.equal, weights(first), weights(other)))
    assert weights(first)[0] is not weights(second)[0]


def test_a_network_that_does_not_fit_is_a_configuration_error() -> None:
    config = replace(CONFIG, network=NetworkConfig(torso="nature"))
    with pytest.raises(ConfigError, match=r"^network: .*nature"):
        make_agent(VTRACE, config, SPACES, CPU)


def test_the_store_holds_what_acting_leaves_behind() -> None:
    store = make_store(VTRACE, CONFIG, SPACES, make_agent(VTRACE, CONFIG, SPACES, CPU), CPU)
    layout = store.layout
    assert (layout.unroll_length, layout.max_envs, layout.frame_stack) == (7, 6, 2)
    # An LSTM has a cell and an output for each unit.
    assert layout.state_size == 10
    assert layout.observation == Column((4,), torch.float32)
    assert layout.action == Column((), torch.int64)
    assert layout.behaviour == {"policy": Column((3,), torch.float32)}


# With fewer pages, open ones could hold them all while the learner waits for a batch.
@pytest.mark.parametrize(("batch_size", "queue_batches"), [(1, 1.0), (3, 1.5), (50, 4.0)])
def test_the_store_has_pages_for_open_unrolls_and_two_batches(
    batch_size: int, queue_batches: float
) -> None:
    learner = replace(CONFIG.learner, batch_size=batch_size, queue_batches=queue_batches)
    config = replace(CONFIG, learner=learner)
    pages = Constant(torch.tensor(1)).make_store(SPACES.action, config).layout.num_pages
    assert pages >= 2 * 6 + queue_limit(config) + 2 * batch_size


REPLAY = replace(
    CONFIG,
    inference=replace(CONFIG.inference, evaluation_share=0.5),
    replay=ReplayConfig(capacity_rows=1000, burn_in=3),
)


def test_replay_has_pages_of_its_own() -> None:
    constant = Constant(torch.tensor(1))
    plain = constant.make_store(SPACES.action, REPLAY).layout
    layout = constant.make_store(SPACES.action, REPLAY, replay=True).layout
    assert (plain.replay_unrolls, plain.burn_in) == (0, 0)
    assert (layout.replay_unrolls, layout.burn_in) == (1000 // 7, 3)
    assert layout.num_pages == plain.num_pages + 1000 // 7
    assert plain.evaluation_share == layout.evaluation_share == 0.5


# A replay of whole GiB has room for everything else in it.
def test_replay_in_gib_is_the_whole_store() -> None:
    config = replace(REPLAY, replay=ReplayConfig(capacity_gib=2.0**-10))
    store = Constant(torch.tensor(1)).make_store(SPACES.action, config, replay=True)
    assert 2**20 - store.layout.page_nbytes < store.nbytes <= 2**20


@pytest.mark.parametrize(
    ("settings", "replay", "field"),
    [
        (ReplayConfig(capacity_rows=1000), True, "replay.capacity_rows = 1000"),
        (ReplayConfig(capacity_gib=0.25), True, "replay.capacity_gib = 0.25"),
        (ReplayConfig(), False, "inference.max_envs = 6"),
    ],
)
def test_refuses_a_store_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, settings: ReplayConfig, replay: bool, field: str
) -> None:
    config, constant = replace(CONFIG, replay=settings), Constant(torch.tensor(1))
    asked: list[torch.device] = []
    needed = constant.make_store(SPACES.action, config, replay=replay).nbytes

    def available(nbytes: int) -> None:
        def note(device: torch.device) -> int:
            asked.append(device)
            return nbytes

        monkeypatch.setattr("seed.run.serving.available_bytes", note)

    available(needed)
    constant.make_store(SPACES.action, config, replay=replay)
    available(needed - 1)
    with pytest.raises(ConfigError, match=rf"^{field}: the store's .* cpu has .* GiB free; make"):
        constant.make_store(SPACES.action, config, replay=replay)
    assert asked == [CPU, CPU]


def test_a_plan_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, replay=ReplayConfig(capacity_rows=10**9))
    monkeypatch.setattr("seed.run.serving.available_bytes", lambda device: 2**60)
    constant = Constant(torch.tensor(1))
    layout = plan_store(constant.algorithm, config, SPACES, constant.agent, CPU, replay=True)
    assert layout.nbytes > 2**30


@pytest.mark.parametrize(
    ("batch_size", "queue_batches", "limit"), [(3, 1.0, 3), (3, 1.5, 5), (32, 1.01, 33), (1, 1, 1)]
)
def test_the_queue_limit_is_rounded_up(batch_size: int, queue_batches: float, limit: int) -> None:
    learner = LearnerConfig(batch_size=batch_size, queue_batches=queue_batches)
    assert queue_limit(replace(CONFIG, learner=learner)) == limit


@pytest.mark.parametrize(
    ("action", "space"),
    [
        (torch.tensor(1, dtype=torch.int32), SPACES.action),
        (torch.tensor(1.0), SPACES.action),
        (torch.tensor([1]), SPACES.action),
        (torch.zeros(4), SQUARE),
        (torch.zeros(2, 2, dtype=torch.float64), SQUARE),
        (torch.zeros(2, 3), SQUARE),
    ],
    ids=["int32", "float", "one too many", "flat", "float64", "shape"],
)
def test_refuses_actions_that_the_environment_does_not_take(
    action: Tensor, space: SpaceSpec
) -> None:
    with pytest.raises(ConfigError, match=r"'vtrace': act gives actions: a tensor .*; expected a"):
        Constant(action).make_store(space)


@pytest.mark.parametrize(
    ("action", "space"), [(torch.tensor(1), SPACES.action), (torch.zeros(2, 2), SQUARE)]
)
def test_takes_actions_of_the_environments_form(action: Tensor, space: SpaceSpec) -> None:
    layout = Constant(action).make_store(space).layout
    assert layout.action == Column(tuple(action.shape), action.dtype)


def test_unrolls_of_a_run_end_one_by_one() -> None:
    layout = make_store(VTRACE, CONFIG, SPACES, make_agent(VTRACE, CONFIG, SPACES, CPU), CPU).layout
    assert layout.first_offsets.tolist() == [0, 1, 2, 3, 4, 5]


def test_only_acting_copies_have_rounded_weights() -> None:
    network = replace(CONFIG.network, precision="bfloat16")
    config = replace(CONFIG, network=network)
    learning, acting = (make_agent(VTRACE, config, SPACES, CPU) for _ in range(2))
    inference = serve((1,), acting, config)
    inference._socket.close()
    inference._listener.close()
    dtypes = [{parameter.dtype for parameter in agent.parameters()} for agent in (learning, acting)]
    assert dtypes == [{torch.float32}, {torch.float32, torch.bfloat16}]


def serve(seed: tuple[int, ...], agent: nn.Module, config: Config = CONFIG) -> Inference:
    store = make_store(VTRACE, config, SPACES, agent, CPU)
    return make_inference(
        VTRACE, config, SPACES, store, agent, WeightSlot(), store.publish, seed=seed, greedy=True
    )


def connect(inference: Inference) -> tuple[list[int], list[int]]:
    """The seeds that two environments get and their first actions, from zeros."""
    crew = ThreadGroup()
    crew.start("inference", lambda: inference.run(crew.stop, lambda: "the end"))
    dealer = Dealer(inference.endpoint)
    try:
        seeds = dealer.hello(2).seeds.tolist()
        dealer.step_arrays(0, np.ones((2, 4), np.float32))
        return seeds, dealer.actions(0)
    finally:
        dealer.socket.close()
        crew.join()


def test_environments_get_seeds_of_all_the_seeds_parts(short_farewell: None) -> None:
    def seeds(*seed: int) -> list[int]:
        return connect(serve(seed, make_agent(VTRACE, CONFIG, SPACES, CPU)))[0]

    assert seeds(1, 0) == seeds(1, 0)
    assert len({*seeds(1, 0), *seeds(1, 7), *seeds(2, 0)}) == 6


@pytest.mark.parametrize("favourite", [0, 1, 2])
def test_the_given_agent_acts(short_farewell: None, favourite: int) -> None:
    agent: Any = make_agent(VTRACE, CONFIG, SPACES, CPU)
    with torch.no_grad():
        agent.policy_head.bias[favourite] = 100.0
    assert connect(serve((1, 0), agent))[1] == [favourite, favourite]
    assert not agent.training


def test_an_address_in_use_is_refused(short_farewell: None) -> None:
    agent = make_agent(VTRACE, CONFIG, SPACES, CPU)
    first = serve((1,), agent)
    taken = replace(CONFIG, inference=replace(CONFIG.inference, address=first.endpoint))
    with pytest.raises(ConfigError, match=first.endpoint):
        serve((1,), agent, taken)
    stop = threading.Event()
    stop.set()
    first.run(stop, lambda: "the end")


@pytest.fixture
def short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the loop wait for nobody's last words."""
    monkeypatch.setattr("seed.inference.loop._FAREWELL_MS", 5)


@pytest.mark.parametrize(
    ("local_envservers", "keys", "address"),
    [("auto", {}, "auto"), (2, {}, "auto"), (0, {}, "tcp://127.0.0.1:5555"),
     (2, {"secret_key": "a.key", "allowed_keys": "keys"}, "tcp://127.0.0.1:5555")],
)  # fmt: skip
def test_only_local_servers_are_told_any_port(
    monkeypatch: pytest.MonkeyPatch, local_envservers: Any, keys: dict[str, Any], address: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(serving, "Inference", lambda config, *_, **__: asked.append(config.address))
    config = replace(
        CONFIG, local_envservers=local_envservers,
        inference=replace(CONFIG.inference, address="auto", **keys),
    )  # fmt: skip
    agent = make_agent(VTRACE, config, SPACES, CPU)
    store = make_store(VTRACE, config, SPACES, agent, CPU)
    make_inference(VTRACE, config, SPACES, store, agent, WeightSlot(), store.publish, seed=(1, 0))
    assert asked == [address]
