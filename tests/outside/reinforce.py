"""A small outside algorithm: actor-critic with n-step returns inside the unroll, no correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seed.contract import (
    ActOutput,
    Body,
    Fleet,
    LossResult,
    NetworkConfig,
    Rows,
    SpaceSpec,
    Unroll,
    make_policy,
)

DATA_SOURCE: Literal["queue"] = "queue"


@dataclass(frozen=True)
class Config:
    """Settings of the example."""

    discount: float = 0.99
    """Worth of a reward one step later."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus."""


class Agent(nn.Module):
    """A body with two heads."""

    def __init__(self, observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig) -> None:
        super().__init__()
        self.body = Body(observation, action, network)
        self.state_size = self.body.state_size
        self.policy = make_policy(action)
        self.policy_head = nn.Linear(self.body.output_size, self.policy.parameter_count)
        self.value_head = nn.Linear(self.body.output_size, 1)

    def forward(self, rows: Rows, agent_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, agent_state = self.body(
            rows.observations, rows.previous_actions, rows.rewards, rows.first, agent_state
        )
        return self.policy_head(features), self.value_head(features).squeeze(-1), agent_state


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> Agent:
    return Agent(observation, action, network)


def act(
    agent: Agent,
    rows: Rows,
    agent_state: Tensor,
    config: Config,
    *,
    fleet: Fleet,
    greedy: bool,
) -> ActOutput:
    policy, _, agent_state = agent(rows, agent_state)
    choose = agent.policy.mode if greedy else agent.policy.sample
    return ActOutput(choose(policy[0]), {}, agent_state)


def loss(agent: Agent, target: Any, unroll: Unroll, config: Config) -> LossResult:
    policy, values, _ = agent(unroll.rows, unroll.agent_state)
    rows = unroll.rows
    ended = rows.terminated | rows.truncated
    returns = [values[-1].detach()]
    for t in reversed(range(len(values) - 1)):
        discount = config.discount * (~rows.terminated[t + 1]).float()
        step_return = rows.rewards[t + 1] + discount * returns[-1]
        # An ending row's action is no step: what flows back from it is its own value.
        returns.append(torch.where(ended[t], values[t].detach(), step_return))
    targets = torch.stack(returns[:0:-1])  # [T, B] float32
    valid = (~ended[:-1]).float()
    advantages = valid * (targets - values[:-1])
    log_probs = agent.policy.log_prob(policy[:-1], unroll.actions[:-1])
    entropy = (valid * agent.policy.entropy(policy[:-1])).mean()
    policy_loss = -(log_probs * advantages.detach()).mean()
    value_loss = 0.5 * advantages.square().mean()
    total = policy_loss + 0.5 * value_loss - config.entropy_cost * entropy
    return LossResult(total, {"entropy": entropy.detach()})
