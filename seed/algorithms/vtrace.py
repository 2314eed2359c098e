"""V-trace actor-critic (IMPALA, Espeholt et al. 2018), from the queue of unrolls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seed.contract import ActOutput, Fleet, LossResult, NetworkConfig, Rows, SpaceSpec, Unroll
from seed.networks.body import Body
from seed.networks.policy import make_policy
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


class Output(NamedTuple):
    """What the network says.

    Attributes:
        policy: Parameters of the action distribution. `[T, B, P] float32`
        values: `[T, B] float32`
        agent_state: State after the last row. `[B, S] float32`
    """

    policy: Tensor
    values: Tensor
    agent_state: Tensor


class ActorCritic(nn.Module):
    """A body with a policy head and a value head."""

    def __init__(self, observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig) -> None:
        """The policy head's weights start small, so that the first policy is near uniform."""
        super().__init__()
        self.body = Body(observation, action, network)
        self.state_size = self.body.state_size
        self.action_shape = action.shape
        self.policy = make_policy(action)
        self.policy_head = nn.Linear(self.body.output_size, self.policy.parameter_count)
        self.value_head = nn.Linear(self.body.output_size, 1)
        for head, gain in ((self.policy_head, 0.01), (self.value_head, 1.0)):
            nn.init.orthogonal_(head.weight, gain)
            nn.init.zeros_(head.bias)

    def forward(self, rows: Rows, rewards: Tensor, agent_state: Tensor) -> Output:
        """Runs over `[T, B]` rows; `rewards` are the rows' own, as the network may see them."""
        features, agent_state = self.body(
            rows.observations, rows.previous_actions, rewards, rows.first, agent_state
        )
        values = self.value_head(features).squeeze(-1)  # [T, B] float32
        return Output(self.policy_head(features), values, agent_state)


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
    output = agent(rows, shape_rewards(rows.rewards, config), agent_state)
    policy = output.policy[0]
    actions = agent.policy.mode(policy) if greedy else agent.policy.sample(policy)
    actions = actions.view(len(actions), *agent.action_shape)
    return ActOutput(actions, {"policy": policy}, output.agent_state)


def loss(agent: ActorCritic, target: None, unroll: Unroll, config: Config) -> LossResult:
    """Policy gradient with V-trace advantages, V-trace value targets, entropy bonus.

    L = -Σ rho_t log π(a_t) A_t + value_cost ½ Σ (v_t - V_t)² - entropy_cost Σ H(π_t), over the
    unroll's transitions. The step from an episode's last row to the next episode's first is none.
    """
    rewards = shape_rewards(unroll.rows.rewards, config)  # [T + 1, B] float32
    output = agent(unroll.rows, rewards, unroll.agent_state)
    policy, actions = output.policy[:-1], unroll.actions[:-1]
    behaviour = unroll.behaviour["policy"][:-1]
    log_probs = agent.policy.log_prob(policy, actions)  # [T, B] float32
    log_rhos = log_probs.detach() - agent.policy.log_prob(behaviour, actions)
    values = output.values
    rows = unroll.rows
    steps = transitions(
        rows.terminated, rows.truncated, rows.first, rewards, values.detach(), config.discount
    )
    returns = vtrace(
        log_rhos, steps.discounts, steps.rewards, values[:-1].detach(), values[-1].detach(),
        clip_rho=config.clip_rho, clip_pg_rho=config.clip_pg_rho, lambda_=config.lambda_,
    )  # fmt: skip
    weight = steps.valid / (steps.valid.sum().clamp(min=1) if config.reduction == "mean" else 1)
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
        if config.reward_clip:
            clipped = (rows.rewards[1:] * config.reward_scale).abs() > config.reward_clip
            metrics["reward_clipped_share"] = (share * clipped).sum()
    return LossResult(total, metrics)


def shape_rewards(rewards: Tensor, config: Config) -> Tensor:
    """Rewards as the algorithm takes them: scaled, then clipped. Same shape."""
    limit = config.reward_clip or math.inf
    return (rewards * config.reward_scale).clamp(-limit, limit)
