"""Algorithms that do nothing but act, each by one function of what it is shown."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from seed.contract import ActOutput, Algorithm, Fleet
from seed.store.rows import Rows


class Shown(NamedTuple):
    """What `act` is called with."""

    agent: nn.Module
    rows: Rows
    agent_state: Tensor
    config: Any
    fleet: Fleet
    greedy: bool


def acting(choose: Callable[[Shown], ActOutput]) -> Algorithm:
    """The algorithm that acts by this function."""

    def act(
        agent: nn.Module,
        rows: Rows,
        agent_state: Tensor,
        config: Any,
        *,
        fleet: Fleet,
        greedy: bool,
    ) -> ActOutput:
        return choose(Shown(agent, rows, agent_state, config, fleet, greedy))

    return cast(Algorithm, SimpleNamespace(act=act))


def add_up(shown: Shown) -> ActOutput:
    """The state sums up an episode's observations; the action is the sum times a weight."""
    after = shown.agent_state + shown.rows.observations[""][0][:, None]
    factor = cast(Tensor, shown.agent.weight).item()
    return ActOutput((after[:, 0] * factor).long(), {}, after)
