"""What a plan has in it: the network, the store's form and size, and the words of a dry run.

What no plan can be made of is in tests/seed/test_refusals.py.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import Config, ConfigError
from seed.contract import ActOutput
from seed.contract.loading import load_algorithm
from seed.learner.checkpoint import Checkpoint
from seed.run import plan as run_plan
from seed.run.description import Spaces
from seed.run.plan import describe_plan, make_agent, plan_run, plan_store, queue_limit
from seed.store.layout import Column, StoreLayout
from seed.wire.spaces import SpaceSpec
from tests.seed.acting import Shown, acting
from tests.seed.checkpoints import state_of
from tests.seed.configs import make_config

pytestmark = pytest.mark.usefixtures("describes_here")
CPU = torch.device("cpu")
SPACES = Spaces(SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 3))
VTRACE = load_algorithm("vtrace")
CONFIG = make_config(
    network={"torso": "mlp", "hidden_sizes": [8], "lstm_size": 5, "frame_stack": 2},
    inference={"max_envs": 6, "max_batch": 6}, local_envservers=0,
    learner={"unroll_length": 7, "batch_size": 3, "queue_batches": 1.5},
)  # fmt: skip
R2D2: dict[str, Any] = {"name": "r2d2", "dueling_size": 4}


CONSTANT = torch.tensor(1)


def plan_constant(
    config: Config, constant: Tensor = CONSTANT, action: SpaceSpec = SPACES.action, *,
    replay: bool = False,
) -> StoreLayout:  # fmt: skip
    """The store of an algorithm that always does the same, whose agent has no memory."""

    def choose(shown: Shown) -> ActOutput:
        batch = shown.rows.rewards.shape[1]
        return ActOutput(constant.expand(batch, *constant.shape), {}, shown.agent_state)

    agent: Any = nn.Linear(1, 1)
    agent.state_size = 0
    spaces = Spaces(SPACES.observation, action)
    return plan_store(acting(choose), config, spaces, agent, CPU, replay=replay)


def test_agents_of_one_seed_are_equal() -> None:
    first, second, other = (
        list(make_agent(VTRACE, replace(CONFIG, seed=seed), SPACES, CPU).parameters())
        for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, other))
    assert first[0] is not second[0]


def test_the_store_holds_what_acting_leaves_behind() -> None:
    layout = plan_store(VTRACE, CONFIG, SPACES, make_agent(VTRACE, CONFIG, SPACES, CPU), CPU)
    # Of 3 * 6 environments, a queue of 5 and two batches.
    assert (layout.num_pages, layout.replay_unrolls, layout.burn_in) == (18 + 2 * (5 + 3), 0, 0)
    assert (layout.unroll_length, layout.max_envs, layout.frame_stack) == (7, 6, 2)
    # An LSTM has a cell and an output for each unit.
    assert layout.state_size == 10
    assert layout.observations[""] == Column((4,), torch.float32)
    assert layout.action == Column((), torch.int64)
    assert layout.behaviour == {"policy": Column((3,), torch.float32)}
    # Unrolls of a run end one by one.
    assert layout.first_offsets.tolist() == [0, 1, 2, 3, 4, 5]


def test_replay_has_pages_of_its_own() -> None:
    config = make_config(
        algorithm=R2D2, inference={"evaluation_share": 0.5},
        replay={"capacity_rows": 1000, "burn_in": 3}, learner={"unroll_length": 7},
    )  # fmt: skip
    plain, layout = plan_constant(config), plan_constant(config, replay=True)
    assert (plain.replay_unrolls, layout.replay_unrolls) == (0, 1000 // 7)
    assert layout.num_pages == plain.num_pages + 1000 // 7
    assert plain.evaluation_share == layout.evaluation_share == 0.5
    assert plan_run(config, None).layout.replay_unrolls == 1000 // 7


@pytest.mark.parametrize("source", ["vtrace", "r2d2"])
@pytest.mark.parametrize("table", ["learner", "replay"])
def test_context_rows_come_by_either_name_and_from_either_source(
    caplog: pytest.LogCaptureFixture, source: str, table: str
) -> None:
    if (source, table) == ("vtrace", "replay"):
        pytest.skip("without replay there is no such table")
    tables: dict[str, Any] = {"learner": {"unroll_length": 7}, "algorithm": {"name": source}}
    if source == "r2d2":
        tables["replay"] = {"capacity_rows": 1000}
    tables[table]["burn_in"] = 3
    with caplog.at_level("INFO"):
        plan = plan_run(make_config(**tables), None)
    assert plan.layout.burn_in == 3
    assert caplog.text.count("replay.burn_in is called learner.burn_in") == (table == "replay")


class Pair(nn.Module):
    """A learner that does not act beside an actor with a memory."""

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor, self.learner = actor, nn.Linear(100, 100)


def test_only_the_acting_part_is_sized_and_acts() -> None:
    module: Any = SimpleNamespace(
        **{**vars(VTRACE), "make_agent": lambda *given: Pair(VTRACE.make_agent(*given)),
           "acting_part": lambda agent: agent.actor}
    )  # fmt: skip
    agent: Any = make_agent(module, CONFIG, SPACES, CPU)
    assert plan_store(module, CONFIG, SPACES, agent, CPU) == plan_store(
        VTRACE, CONFIG, SPACES, agent.actor, CPU
    )


@pytest.mark.parametrize(
    ("replay", "field"),
    [
        ({"capacity_rows": 1000}, "replay.capacity_rows = 1000"),
        ({"capacity_gib": 0.25}, "replay.capacity_gib = 0.25"),
        ({}, "inference.max_envs = 6"),
    ],
)
def test_refuses_a_store_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, replay: dict[str, Any], field: str
) -> None:
    config = replace(CONFIG, replay=replace(CONFIG.replay, **replay))
    # Nothing but a plan takes so much: the memory is not asked for.
    needed = plan_constant(config, replay=bool(replay)).nbytes
    free = {CPU: needed}
    monkeypatch.setattr(run_plan, "available_bytes", free.__getitem__)
    plan_constant(config, replay=bool(replay))
    free[CPU] -= 1
    with pytest.raises(ConfigError, match=rf"^{field}: the store's .* cpu has .* GiB free"):
        plan_constant(config, replay=bool(replay))


# How much they need is in tests/seed/learner/test_trial.py.
def test_updates_and_the_acting_network_must_fit_beside_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(inference={"device": "cpu"}, learner={"device": "cpu"})
    plan = plan_run(config, None)
    acting = sum(tensor.nbytes for tensor in plan.agent.state_dict().values())
    free = {CPU: plan.layout.nbytes + 2**40 + acting}
    monkeypatch.setattr(run_plan, "update_bytes", lambda *_: 2**40)
    monkeypatch.setattr(run_plan, "available_bytes", free.__getitem__)
    plan_run(config, None)
    free[CPU] -= 1
    with pytest.raises(ConfigError, match=r"GiB, updates 1024\.0 GiB, and cpu has"):
        plan_run(config, None)


@pytest.mark.parametrize(
    ("batch_size", "queue_batches", "limit"), [(3, 1.0, 3), (3, 1.5, 5), (32, 1.01, 33), (1, 1, 1)]
)
def test_the_queue_limit_is_rounded_up(batch_size: int, queue_batches: float, limit: int) -> None:
    learner = replace(CONFIG.learner, batch_size=batch_size, queue_batches=queue_batches)
    assert queue_limit(replace(CONFIG, learner=learner)) == limit


# All forms are in tests/seed/contract/test_answers.py.
def test_actions_are_of_the_environments_form() -> None:
    square = SpaceSpec("float32", (2, 2))
    layout = plan_constant(CONFIG, torch.zeros(2, 2), square)
    assert layout.action == Column((2, 2), torch.float32)
    with pytest.raises(ConfigError, match=r"'vtrace': act gives actions: a tensor .*; expected a"):
        plan_constant(CONFIG, action=square)


@pytest.mark.parametrize(
    ("shape", "kept", "largest"),
    [
        ((10, 5), (4,), (4,)),
        # Earlier versions kept no bounds, and divided all uint8 by 255.
        ((10, 5), None, None),
        # Other spaces than today's: the refusal to load them comes later.
        ((9, 5), (4,), (1,)),
    ],
)
def test_a_checkpoint_keeps_the_scale_that_it_was_learned_with(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], kept: tuple[int, ...] | None,
    largest: tuple[int, ...] | None,
) -> None:  # fmt: skip
    actions = SpaceSpec("int64", (), 3)
    today = Spaces(SpaceSpec("uint8", (10, 5), largest=(1,)), actions)
    monkeypatch.setattr(run_plan, "describe", lambda config: today)
    trained = Spaces(SpaceSpec("uint8", shape, largest=kept), actions)
    loaded = Checkpoint({}, state_of(900, spaces=trained.to_map()))
    assert plan_run(make_config(), None).spaces.observation.largest == (1,)
    assert plan_run(make_config(), loaded).spaces.observation.largest == largest


def test_in_words_it_is_a_configuration_with_comments() -> None:
    loaded = Checkpoint({}, state_of(12_000))
    text = describe_plan(plan_run(make_config(learner={"queue_batches": 1.5}), loaded))
    tables = tomllib.loads(text)
    assert tables["network"]["hidden_sizes"] == [4]
    assert tables["algorithm"]["name"] == "vtrace"
    # 50 pixels to 4 units, then 3 logits and a value.
    weights = 50 * 4 + 4 + 4 * 4 + 4
    for line in ("# would start:", f"# agent: ActorCritic with {weights} weights",
                 "# a queue of 48 unrolls of 20 steps", "# from 12,000 frames on"):  # fmt: skip
        assert line in text.splitlines()
    for words in ("\n# 1 local environment server: ", "--connect 'tcp://127.0.0.1:*' ",
                  "acting on ", "values taken as they are"):  # fmt: skip
        assert words in text
    replay = make_config(
        algorithm=R2D2, network={"lstm_size": 2}, replay={"capacity_rows": 60_000}
    )
    lines = describe_plan(plan_run(replay, None)).splitlines()
    assert "# from the first frame on" in lines
    (line,) = [line for line in lines if line.startswith("# a store of ")]
    assert line.endswith(", for a replay of 3,000 unrolls")


def test_in_lock_step_a_batch_is_an_unroll_of_every_environment_that_trains() -> None:
    config = make_config(
        algorithm={"name": "a2c"}, inference={"max_envs": 10, "evaluation_share": 0.25},
        local_envservers=2, local={"envs_per_server": 4},
    )  # fmt: skip
    plan = plan_run(config, None)
    assert (plan.first_envs, plan.config.learner.batch_size) == (8, 6)
    # One more for each environment than else, two queues and two batches.
    assert plan.layout.num_pages == 4 * 10 + 2 * (6 + 6)
    assert not plan.layout.first_offsets.any()
    assert "in lock-step: an update from 20 steps of each environment" in describe_plan(plan)
    remote = replace(config, local_envservers=0)
    assert plan_run(remote, None).config.learner.batch_size == 8
    waits = replace(remote, learner=replace(config.learner, lockstep_envs=4))
    assert plan_run(waits, None).first_envs == 4
    without = replace(config, learner=replace(config.learner, lockstep=False))
    assert plan_run(without, None).first_envs is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": {"name": "r2d2"}, "learner": {"lockstep": True},
          "replay": {"capacity_rows": 1000}}, "learner.lockstep: algorithm 'r2d2' learns from"),
        ({"learner": {"publish_every_updates": 2}}, "publish_every_updates = 2: expected 1 in"),
        ({"learner": {"queue_batches": 2}}, "learner.queue_batches = 2.0: expected 1 in lock-step"),
        ({"inference": {"min_batch": 2}}, "inference.min_batch = 2: expected 1 in lock-step"),
        ({"learner": {"lockstep_envs": 9}, "inference": {"max_envs": 8, "max_batch": 8},
          "local_envservers": 0}, "lockstep_envs = 9: expected at most inference.max_envs = 8"),
        ({"learner": {"lockstep": False, "lockstep_envs": 9}}, "lockstep_envs = 9: expected 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_in_lock_step_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_run(make_config(**{"algorithm": {"name": "a2c"}, **changes}), None)
