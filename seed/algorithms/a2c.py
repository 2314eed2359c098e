"""Advantage actor-critic in lock-step (PAAC, Clemente et al. 2017; A2C, Mnih et al. 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seed.contract import (
    ActorCritic,
    ActOutput,
    Fleet,
    LossResult,
    NetworkConfig,
    Rows,
    SpaceSpec,
    Unroll,
)
from seed.ops.gae import gae
from seed.ops.reward_shaping import is_clipped, shape_rewards
from seed.ops.transitions import transitions

DATA_SOURCE: Literal["queue"] = "queue"
LOCKSTEP = True


@dataclass(frozen=True)
class Config:
    """A2C's own settings."""

    discount: float = 0.99
    """Worth of a reward one step later (gamma)."""
    lambda_: float = 1.0
    """Decay of the advantages (GAE); 1 for PAAC's and A2C's n-step returns, n up to the unroll's
    end."""
    value_cost: float = 0.5
    """Weight of the value loss, half the mean squared error."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus."""
    loss_scale: float = 1.0
    """Factor on the whole loss. PAAC takes 5: its learning rate was tuned for sums over 5 steps."""
    reward_scale: float = 1.0
    """Factor on every reward, before clipping."""
    reward_clip: float = 0.0
    """Rewards are clipped to plus or minus this, as is usual on Atari; 0 for no clipping."""

    def __post_init__(self) -> None:
        """Raises ValueError for values outside the formulas' range."""
        for name in ("discount", "lambda_"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected from 0 to 1")
        for name in ("value_cost", "entropy_cost", "reward_scale", "reward_clip"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: expected a finite number")
        if not 0 < self.loss_scale < math.inf:
            raise ValueError(f"loss_scale = {self.loss_scale}: expected a finite number above 0")
        if not self.reward_clip >= 0:
            raise ValueError(f"reward_clip = {self.reward_clip}: expected at least 0")


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> ActorCritic:
    """An untrained agent for these spaces."""
    return ActorCritic(observation, action, network)


def act(
    agent: ActorCritic,
    rows: Rows,
    agent_state: Tensor,
    config: Config,
    *,
    fleet: Fleet,
    greedy: bool,
) -> ActOutput:
    """Samples an action for each of `[1, B]` rows; keeps nothing: the learner's policy acts."""
    rewards = shape_rewards(rows.rewards, config.reward_scale, config.reward_clip)
    output = agent(rows, rewards, agent_state)
    return ActOutput(agent.choose(output.policy[0], greedy=greedy), {}, output.agent_state)


def loss(agent: ActorCritic, target: None, unroll: Unroll, config: Config) -> LossResult:
    """Policy gradient with the unroll's advantages, their value targets, entropy bonus.

    L = loss_scale · mean(-log π(a_t) A_t + value_cost ½ (A_t + V_t - V_t')² - entropy_cost H(π_t)),
    over the unroll's transitions; V_t' is the V_t that the gradient flows through. The step from an
    episode's last row to the next episode's first is none. There are no importance ratios, which
    are 1 in lock-step.
    """
    start, scale, clip = unroll.burn_in, config.reward_scale, config.reward_clip
    rewards = shape_rewards(unroll.rows.rewards, scale, clip)  # [K + T + 1, B] float32
    output = agent(unroll.rows, rewards, unroll.agent_state, start)
    rows, rewards = unroll.rows.between(start), rewards[start:]  # [T + 1, B]
    policy, values = output.policy[:-1], output.values
    steps = transitions(
        rows.terminated, rows.truncated, rows.first, rewards, values.detach(), config.discount
    )
    advantages = gae(
        steps.rewards, steps.discounts, values[:-1].detach(), values[-1].detach(), config.lambda_
    )  # [T, B] float32
    count = steps.valid.sum().clamp(min=1)
    share = steps.valid / count  # [T, B] float32
    log_probs = agent.policy.log_prob(policy, unroll.actions[start:-1])  # [T, B] float32
    errors = advantages + (values[:-1].detach() - values[:-1])  # [T, B] float32
    policy_loss = -(share * log_probs * advantages).sum()
    value_loss = 0.5 * (share * errors.square()).sum()
    entropy = (share * agent.policy.entropy(policy)).sum()
    total = policy_loss + config.value_cost * value_loss - config.entropy_cost * entropy
    with torch.no_grad():
        metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "value_mean": (share * values[:-1]).sum(),
            "advantage_mean": (share * advantages).sum(),
        }
        if clip:
            clipped = is_clipped(rows.rewards[1:], scale, clip)
            metrics["reward_clipped_share"] = (share * clipped).sum()
    return LossResult(config.loss_scale * total, metrics, count=count)
