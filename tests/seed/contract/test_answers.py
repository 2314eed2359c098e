"""What is said of an algorithm whose functions return something else than the contract says."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import ConfigError
from seed.contract import ActOutput, Group, LossResult, Passes
from seed.contract.answers import (
    check_acted,
    check_agent,
    check_first_priorities,
    check_groups,
    check_passes,
    check_prepared,
    check_result,
)
from seed.store.layout import Column

CPU = torch.device("cpu")
ACTION = Column((2,), torch.float32)
ACTED: Any = ActOutput(torch.zeros(3, 2), {"policy": torch.zeros(3, 4)}, torch.zeros(3, 5))
LOSS = torch.zeros((), requires_grad=True)
RESULT: Any = LossResult(LOSS, {"entropy": torch.zeros(())}, torch.ones(3))
Pair = namedtuple("Pair", ["actions", "agent_state"])


def check(acted: Any, state_size: int = 5) -> None:
    check_acted(acted, "mine", batch=3, action=ACTION, state_size=state_size, device=CPU)


def test_what_the_contract_says_passes() -> None:
    check(ACTED)
    check(ACTED._replace(agent_state=None), state_size=0)
    check_result(RESULT, "mine", batch=3, device=CPU)
    check_result(LossResult(LOSS, {}), "mine", batch=3, device=CPU)
    counted = RESULT._replace(count=torch.tensor(3), statistics={"sum": torch.zeros(2, 2)})
    check_result(counted, "mine", batch=3, device=CPU, stop="entropy", after_batch=True)
    check_result(RESULT, "mine", batch=3, device=CPU, stop="grad_norm")


@pytest.mark.parametrize(
    ("acted", "words"),
    [
        (None, r"gives a NoneType without actions, behaviour, agent_state; expected seed"),
        (tuple(ACTED), r"expected seed\.contract\.ActOutput\(actions, behaviour, agent_state\)"),
        (Pair(*ACTED[::2]), "gives a Pair without behaviour;"),
        # In another order.
        (ActOutput(ACTED[0], ACTED[2], ACTED[1]), "gives behaviour: a Tensor; expected a dict"),
        (ACTED._replace(actions=[[0.0, 0.0]] * 3), "gives actions: a list; expected a tensor of"),
        (ACTED._replace(actions=torch.zeros(3)), r"shape \(3,\) .*expected .*shape \(3, 2\)"),
        (ACTED._replace(actions=torch.zeros(3, 2).long()), r"torch\.int64 .* and torch\.float32"),
        (ACTED._replace(actions=torch.zeros(3, 2, device="meta")), "on meta, .*on cpu"),
        (ACTED._replace(behaviour={"v": 1.0}), r"gives behaviour\['v'\]: a float; expected a ten"),
        (ACTED._replace(behaviour={"v": torch.zeros(())}), r"behaviour\['v'\].*expected .*\(3,\)"),
        (ACTED._replace(behaviour={0: torch.zeros(3)}), "gives behaviour: a dict; expected a dict"),
        (ACTED._replace(agent_state=torch.zeros(1, 3, 5)), r"agent_state.* \(3, 5\)"),
        (ACTED._replace(agent_state=torch.zeros(3, 5).half()), r"torch\.float16 .*torch\.float32"),
    ],
)
def test_what_act_returns_is_refused_by_name(acted: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = 'mine': act .*{words}"):
        check(acted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": 0.5}, "gives loss: a float;"),
        ({"loss": torch.zeros(())}, "without gradient; expected .* with gradient"),
        ({"loss": torch.zeros(3, requires_grad=True)}, r"shape \(3,\).* expected .* shape \(\)"),
        ({"metrics": [0.5]}, "gives metrics: a list;"),
        ({"metrics": {"x": 0.5}}, r"metrics\['x'\]: a float"),
        ({"metrics": {"x": LOSS}}, r"metrics\['x'\].* with gradient; expected .* without"),
        ({"metrics": {"grad_norm": torch.zeros(())}}, "which the learner has already"),
        ({"priorities": [1.0] * 3}, "priorities: a list"),
        ({"priorities": torch.ones(2)}, r"priorities: .*\(2,\).* expected .*\(3,\)"),
        ({"count": 3}, "gives count: a int; expected a tensor"),
        ({"count": torch.ones(3)}, r"gives count: .*\(3,\).* expected .* shape \(\)"),
        ({"count": LOSS}, r"gives count: .*with gradient; expected .* without"),
        ({"statistics": {"a": torch.ones(1)}}, "gives statistics, and there is no after_batch"),
    ],
)
def test_what_loss_returns_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = 'mine': loss .*{words}"):
        check_result(RESULT._replace(**changes), "mine", batch=3, device=CPU)


@pytest.mark.parametrize(
    ("statistics", "words"),
    [
        ([1.0], "loss gives statistics: a list; expected a dict"),
        ({"a": 1.0}, r"loss gives statistics\['a'\]: a float"),
        ({"a": LOSS}, r"loss gives statistics\['a'\].* with gradient; expected .* without"),
    ],
)
def test_statistics_are_refused_by_name(statistics: Any, words: str) -> None:
    result = RESULT._replace(statistics=statistics)
    with pytest.raises(ConfigError, match=words):
        check_result(result, "mine", batch=3, device=CPU, after_batch=True)


def test_what_stops_the_passes_is_a_metric() -> None:
    words = "passes gives stop = 'kl'; expected a metric of loss: loss, grad_norm, entropy$"
    with pytest.raises(ConfigError, match=words):
        check_result(RESULT, "mine", batch=3, device=CPU, stop="kl")


def test_a_bare_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gives a Tensor without loss, .*LossResult\(loss, metr"):
        check_result(LOSS, "mine", batch=3, device=CPU)


def test_priorities_of_unrolls_that_enter_replay_come_back() -> None:
    priorities = torch.tensor([0.0, math.nan, 2.0])
    assert check_first_priorities(priorities, "mine", batch=3) is priorities


@pytest.mark.parametrize(
    ("priorities", "words"),
    [
        (None, "a NoneType;"),
        ([1.0] * 3, "a list;"),
        (torch.ones(3, 1), r"a tensor of shape \(3, 1\) and torch\.float32;"),
        (torch.ones(3).bfloat16(), r"a tensor of shape \(3,\) and torch\.bfloat16;"),
    ],
)
def test_other_priorities_are_refused_by_name(priorities: object, words: str) -> None:
    wanted = r"expected a tensor of shape \(3,\) and torch\.float32$"
    with pytest.raises(ConfigError, match=rf"'mine': initial_priorities gives {words} {wanted}"):
        check_first_priorities(priorities, "mine", batch=3)


class Sized(nn.Module):
    def __init__(self, state_size: Any) -> None:
        super().__init__()
        self.state_size = state_size


@pytest.mark.parametrize("agent", [Tensor(), nn.Linear(1, 1), Sized(None), Sized(-1), Sized(1.5)])
def test_an_agent_is_a_module_with_a_state_size(agent: object) -> None:
    with pytest.raises(ConfigError, match=r"make_agent gives .* expected"):
        check_agent(agent, "mine")


def test_an_agent_comes_back() -> None:
    agent = Sized(7)
    assert check_agent(agent, "mine") is agent


def test_the_part_that_acts_is_the_agents_own() -> None:
    sized, plain = Sized(7), nn.Linear(1, 1)
    agent: nn.Module = nn.Sequential(sized, plain)
    # The whole has no state_size, and needs none.
    assert check_agent(agent, "mine", lambda whole: sized) is agent
    wrong: dict[str, Any] = {
        "a Sized, expected the agent or a module in it": Sized(7),
        "a NoneType, expected the agent or": None,
        "a module with state_size None; expected how": plain,
    }
    for words, part in wrong.items():
        with pytest.raises(ConfigError, match=f"'mine': acting_part gives {words}"):
            check_agent(agent, "mine", {agent: part}.__getitem__)


PAIR = nn.ModuleDict({"actor": nn.Linear(2, 1), "critic": nn.Linear(2, 1)})
ACTOR, CRITIC = (list(part.parameters()) for part in PAIR.values())


def test_groups_that_have_every_parameter_come_back() -> None:
    groups = {"actor": Group(ACTOR, 0.1, 0), "critic": Group(CRITIC)}
    assert check_groups(groups, PAIR, "mine") is groups
    PAIR["critic"].requires_grad_(False)
    assert check_groups({"actor": Group(ACTOR)}, PAIR, "mine")
    PAIR["critic"].requires_grad_(True)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([Group(ACTOR)], "gives a list; expected a dict of Groups by name"),
        ({}, "gives a dict; expected a dict of Groups"),
        ({"all": ACTOR}, r"gives 'all': a list; expected a seed\.contract\.Group"),
        ({"a": Group(ACTOR)}, r"leaves out critic\.weight, critic\.bias; expected every param"),
        ({"a": Group(ACTOR), "b": Group(CRITIC + ACTOR[1:])},
         r"gives actor\.bias to 'a' and 'b'; expected each"),
        ({"a": Group(ACTOR + CRITIC + ACTOR[:1])}, r"gives actor\.weight to 'a' and 'a'"),
        ({"a": Group([*ACTOR, nn.Parameter(torch.ones(3))])},
         r"gives 'a' a tensor of shape \(3,\) and torch\.float32 that is no parameter of the ag"),
        ({"a": Group(ACTOR, -1.0), "b": Group(CRITIC)}, r"gives 'a' learning_rate = -1\.0; expec"),
        ({"a": Group(ACTOR, clip_norm=math.nan)}, "gives 'a' clip_norm = nan; expected None or"),
        ({"a": Group(ACTOR, "1e-3")}, "gives 'a' learning_rate = '1e-3'; expected None or"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_groups_are_refused_by_name(groups: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = 'mine': groups {words}"):
        check_groups(groups, PAIR, "mine")


def replaced(field: str, value: Any) -> Any:
    return Passes()._replace(**{field: value})


RUN: dict[str, Any] = {
    "replay": False, "batch_size": 3, "unroll_length": 4, "state_size": 0, "burn_in": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "passes", [Passes(), Passes(4, 3), Passes(1, 12, "rows"), Passes(2, 2, stop="kl", limit=0.1)]
)
def test_passes_that_fit_come_back(passes: Passes) -> None:
    assert check_passes(passes, "mine", **RUN) is passes


@pytest.mark.parametrize(
    ("passes", "run", "words"),
    [
        ((4, 4), {}, r"gives a tuple; expected a seed\.contract\.Passes"),
        (Passes(), {"replay": True}, "is for DATA_SOURCE = 'queue'; replay has replay.ratio"),
        (Passes(epochs=0), {}, "gives epochs = 0; expected an integer of at least 1"),
        (Passes(minibatches=0), {}, "gives minibatches = 0; expected an integer of at"),
        (replaced("minibatches", 2.0), {}, r"gives minibatches = 2\.0; expected an integer"),
        (replaced("items", "steps"), {}, "gives items = 'steps'; expected 'unrolls' or 'row"),
        (replaced("stop", None), {}, "gives stop = None; expected the name of a metric"),
        (Passes(limit=math.nan), {}, "gives limit = nan; expected a finite number"),
        (Passes(items="rows"), {"state_size": 8}, r"gives items = 'rows', and the .* \(8 num"),
        (Passes(items="rows"), {"burn_in": 2}, r"gives items = 'rows' with learner\.burn_in = 2;"),
        (Passes(minibatches=4), {}, r"gives minibatches = 4; expected at most the 3 unr.* = 3\)"),
        (Passes(1, 13, "rows"), {}, "gives minibatches = 13; expected at most the 12 rows of"),
    ],
)
def test_passes_are_refused_by_name(passes: Any, run: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = 'mine': passes {words}"):
        check_passes(passes, "mine", **{**RUN, **run})


@pytest.mark.parametrize(
    ("prepared", "words"),
    [
        (torch.zeros(4, 3), "gives what it makes: a Tensor; expected a dict of tensors"),
        ({"a": 1.0}, "gives 'a': a float; expected a tensor of shape"),
        ({"a": torch.zeros(5, 3)}, r"gives 'a': .*\(5, 3\).*expected .*shape \(4, 3\)"),
        ({"a": torch.zeros(3, 4, 2)}, r"gives 'a': .*\(3, 4, 2\).*expected .*shape \(4, 3, 2\)"),
        ({"a": torch.zeros(4, 3, requires_grad=True)}, "gives 'a'.*with gradient; expected"),
        ({"a": torch.zeros(4, 3, device="meta")}, "gives 'a'.*on meta, .*on cpu"),
    ],
)
def test_what_prepare_makes_is_refused_by_name(prepared: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = 'mine': prepare {words}"):
        check_prepared(prepared, "mine", length=4, batch=3, device=CPU)


def test_what_fits_is_prepared() -> None:
    prepared = {"a": torch.zeros(4, 3), "b": torch.zeros(4, 3, 2).bool()}
    assert check_prepared(prepared, "mine", length=4, batch=3, device=CPU) is prepared
