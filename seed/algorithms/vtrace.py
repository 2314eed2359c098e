"""V-trace actor-critic (IMPALA, Espeholt et al. 2018), from the queue of unrolls."""

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
from seed.ops.reward_shaping import is_clipped, shape_rewards
from seed.ops.transitions import transitions
from seed.ops.vtrace import vtrace

DATA_SOURCE: Literal["queue"] = "queue"


@dataclass(frozen=True)
class Config:
    """V-trace's own settings."""

    discount: float = 0.99
    """Worth of a reward one step later (gamma)."""
    lambda_: float = 1.0
    """Decay of the traces; 1 for the paper's targets."""
    clip_rho: float = 1.0
    """Largest importance ratio in the value targets (rho bar)."""
    clip_pg_rho: float = 1.0
    """Largest importance ratio in the policy gradient."""
    value_cost: float = 0.5
    """Weight of the value loss."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus."""
    reward_scale: float = 1.0
    """Factor on every reward, before clipping."""
    reward_clip: float = 0.0
    """Rewards are clipped to plus or minus this, as is usual on Atari; 0 for no clipping."""
    reduction: Literal["sum", "mean"] = "sum"
    """Losses of all steps are summed (IMPALA) or averaged (SEED); a learning rate fits one."""

    def __post_init__(self) -> None:
        """Raises ValueError for values outside the formulas' range."""
        for name in ("discount", "lambda_"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected from 0 to 1")
        for name in ("clip_rho", "clip_pg_rho"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")
        for name in ("value_cost", "entropy_cost", "reward_scale", "reward_clip"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: expected a finite number")
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
    """Samples an action for each of `[1, B]` rows; keeps the distribution's parameters."""
    rewards = shape_rewards(rows.rewards, config.reward_scale, config.reward_clip)
    output = agent(rows, rewards, agent_state)
    policy = output.policy[0]  # [B, P] float32
    return ActOutput(agent.choose(policy, greedy=greedy), {"policy": policy}, output.agent_state)


def loss(agent: ActorCritic, target: None, unroll: Unroll, config: Config) -> LossResult:
    """Policy gradient with V-trace advantages, V-trace value targets, entropy bonus.

    L = -Σ rho_t log π(a_t) A_t + value_cost ½ Σ (v_t - V_t)² - entropy_cost Σ H(π_t), over the
    unroll's transitions. The step from an episode's last row to the next episode's first is none.
    """
    start, scale, clip = unroll.burn_in, config.reward_scale, config.reward_clip
    rewards = shape_rewards(unroll.rows.rewards, scale, clip)  # [K + T + 1, B] float32
    output = agent(unroll.rows, rewards, unroll.agent_state, start)
    rows, rewards = unroll.rows.between(start), rewards[start:]  # [T + 1, B]
    policy, actions = output.policy[:-1], unroll.actions[start:-1]
    behaviour = unroll.behaviour["policy"][start:-1]
    log_probs = agent.policy.log_prob(policy, actions)  # [T, B] float32
    log_rhos = log_probs.detach() - agent.policy.log_prob(behaviour, actions)
    values = output.values
    steps = transitions(
        rows.terminated, rows.truncated, rows.first, rewards, values.detach(), config.discount
    )
    returns = vtrace(
        log_rhos, steps.discounts, steps.rewards, values[:-1].detach(), values[-1].detach(),
        clip_rho=config.clip_rho, clip_pg_rho=config.clip_pg_rho, lambda_=config.lambda_,
    )  # fmt: skip
    count = steps.valid.sum().clamp(min=1) if config.reduction == "mean" else None
    weight = steps.valid / (1 if count is None else count)
    entropy = agent.policy.entropy(policy)
    policy_loss = -(weight * log_probs * returns.pg_advantages).sum()
    value_loss = 0.5 * (weight * (returns.vs - values[:-1]).square()).sum()
    entropy_loss = -(weight * entropy).sum()
    total = policy_loss + config.value_cost * value_loss + config.entropy_cost * entropy_loss
    with torch.no_grad():
        share = steps.valid / steps.valid.sum().clamp(min=1)
        rhos = log_rhos.exp().masked_fill(steps.valid == 0, 0.0)
        metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": (share * entropy).sum(),
            "behaviour_kl": (share * agent.policy.kl(behaviour, policy)).sum(),
            "value_mean": (share * values[:-1]).sum(),
            "rho_mean": (share * rhos).sum(),
            "rho_clipped_share": (share * (rhos > config.clip_rho)).sum(),
        }
        if clip:
            clipped = is_clipped(rows.rewards[1:], scale, clip)
            metrics["reward_clipped_share"] = (share * clipped).sum()
    return LossResult(total, metrics, count=count)
