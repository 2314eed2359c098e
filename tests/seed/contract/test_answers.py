"""What is said of an algorithm whose functions return something else than the contract says."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import ConfigError
from seed.contract import ActOutput, LossResult
from seed.contract.answers import check_acted, check_agent, check_first_priorities, check_result
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
    ],
)
def test_what_loss_returns_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = 'mine': loss .*{words}"):
        check_result(RESULT._replace(**changes), "mine", batch=3, device=CPU)


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
