"""An algorithm that does nothing: what is left is the cost of the server around it.

In a configuration: `name = "tools.bench.null_algorithm"` in table [algorithm].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from seed.contract import ActOutput, Fleet, LossResult, NetworkConfig, Rows, SpaceSpec, Unroll

DATA_SOURCE: Literal["queue"] = "queue"


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


class NullAgent(nn.Module):
    """One weight, as an optimizer needs one, and no state."""

    def __init__(self, action: SpaceSpec) -> None:
        super().__init__()
        self.state_size = 0
        self.action = action
        self.weight = nn.Parameter(torch.zeros(()))


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> NullAgent:
    """The same agent whatever is observed."""
    return NullAgent(action)


def act(
    agent: NullAgent, rows: Rows, agent_state: Tensor, config: Config, *, fleet: Fleet, greedy: bool
) -> ActOutput:
    """Action 0 for each of `[1, B]` rows; nothing is kept."""
    shape = (len(agent_state), *agent.action.shape)
    dtype = torch.int64 if agent.action.n is not None else torch.float32
    actions = torch.zeros(shape, dtype=dtype, device=rows.first.device)  # [B, *shape]
    return ActOutput(actions, {}, agent_state)


def loss(agent: NullAgent, target: None, unroll: Unroll, config: Config) -> LossResult:
    """The weight itself, which costs nothing. `[]`"""
    return LossResult(agent.weight.square(), {})
