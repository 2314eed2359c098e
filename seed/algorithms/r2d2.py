"""R2D2 (Kapturowski et al. 2019): recurrent double Q-learning from prioritized replay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seed.contract import (
    ActOutput,
    Body,
    DuelingHead,
    Fleet,
    LossResult,
    NetworkConfig,
    Rows,
    SpaceSpec,
    Unroll,
)
from seed.ops.exploration import epsilon_greedy, epsilon_ladder
from seed.ops.n_step import n_step_targets
from seed.ops.reward_shaping import is_clipped, shape_rewards
from seed.ops.sequence_priorities import sequence_priorities
from seed.ops.transitions import transitions
from seed.ops.value_rescaling import rescale, unscale

DATA_SOURCE: Literal["replay"] = "replay"


@dataclass(frozen=True)
class Config:
    """R2D2's own settings."""

    discount: float = 0.997
    """Worth of a reward one step later (gamma)."""
    n_steps: int = 5
    """Rewards in a target before it bootstraps; fewer in an unroll's last rows."""
    target_period_updates: int = 2500
    """Updates after which the target network becomes a copy of the learning one."""
    dueling_size: int = 512
    """Units of the hidden layer in each stream of the dueling head."""
    max_priority_share: float = 0.9
    """Share of the largest error in an unroll's priority, against the mean error (eta)."""
    rescale_epsilon: float = 1e-3
    """Linear part of the value rescaling h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x."""
    epsilon_base: float = 0.4
    """Share of random actions in the first training environment."""
    epsilon_last_power: float = 8.0
    """The last training environment has `epsilon_base` to this power; evenly spaced between."""
    evaluation_epsilon: float = 1e-3
    """Share of random actions in evaluation environments."""
    reward_scale: float = 1.0
    """Factor on every reward, before clipping."""
    reward_clip: float = 0.0
    """Rewards are clipped to plus or minus this; 0 for no clipping, as in the paper."""
    stored_state: bool = True
    """Unrolls start from the recurrent state that acting had there; false for zeros."""

    def __post_init__(self) -> None:
        """Raises ValueError for values outside the formulas' range."""
        for name in ("discount", "max_priority_share", "epsilon_base", "evaluation_epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected from 0 to 1")
        for name in ("n_steps", "target_period_updates", "dueling_size", "epsilon_last_power"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name, most in (("n_steps", 10**6), ("target_period_updates", 10**10),
                           ("dueling_size", 10**5)):  # fmt: skip
            if getattr(self, name) > most:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at most {most}")
        if not math.isfinite(self.reward_scale):
            raise ValueError(f"reward_scale = {self.reward_scale}: expected a finite number")
        for name in ("rescale_epsilon", "reward_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 0")


class RecurrentQ(nn.Module):
    """A body with a dueling head: Q of every action."""

    def __init__(
        self, observation: SpaceSpec, num_actions: int, network: NetworkConfig, dueling_size: int
    ) -> None:
        """`dueling_size` counts the units of each stream of the head.

        Raises ValueError when the torso cannot read the observation.
        """
        super().__init__()
        self.body = Body(observation, SpaceSpec("int64", (), num_actions), network)
        self.state_size = self.body.state_size
        self.head = DuelingHead(self.body.output_size, dueling_size, num_actions)

    def forward(self, rows: Rows, rewards: Tensor, agent_state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Q `[T, B, A] float32`, rescaled values, and the state `[B, S]` after the rows.

        `rewards` are the rows' own, as the network may see them.
        """
        features, agent_state = self._run_body(rows, rewards, agent_state)
        q_values: Tensor = self.head(features)
        return q_values, agent_state

    def advance(self, rows: Rows, rewards: Tensor, agent_state: Tensor) -> Tensor:
        """Returns only the state after the rows, `[B, S] float32`."""
        return self._run_body(rows, rewards, agent_state)[1]

    def _run_body(
        self, rows: Rows, rewards: Tensor, agent_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.body(
            rows.observations, rows.previous_actions, rewards, rows.first, agent_state
        )
        return outputs


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> RecurrentQ:
    """An untrained agent for these spaces; raises ValueError for actions not Discrete."""
    if action.n is None or action.shape != ():
        raise ValueError(
            f"R2D2 compares the values of single actions: expected a Discrete action space, got "
            f"{action.dtype} of shape {action.shape}; choose among fixed actions in the "
            'environment, or use algorithm.name = "vtrace"'
        )
    return RecurrentQ(observation, action.n, network, config.dueling_size)


def act(
    agent: RecurrentQ,
    rows: Rows,
    agent_state: Tensor,
    config: Config,
    *,
    fleet: Fleet,
    greedy: bool,
) -> ActOutput:
    """Epsilon-greedy actions for `[1, B]` rows; keeps Q of the action and the largest Q."""
    rewards = shape_rewards(rows.rewards, config.reward_scale, config.reward_clip)
    q_values, agent_state = agent(rows, rewards, agent_state)
    q_values = q_values[0]  # [B, A] float32
    if greedy:
        actions = q_values.argmax(dim=-1)
    else:
        ladder = epsilon_ladder(fleet.positions, config.epsilon_base, config.epsilon_last_power)
        epsilons = ladder.masked_fill(fleet.evaluation, config.evaluation_epsilon)
        actions = epsilon_greedy(q_values, epsilons)
    behaviour = {"q_taken": _of_actions(q_values, actions), "q_max": q_values.amax(dim=-1)}
    return ActOutput(actions, behaviour, agent_state)


def loss(
    agent: RecurrentQ, target: RecurrentQ, unroll: Unroll, config: Config
) -> LossResult:
    """Squared errors to n-step double-Q targets under value rescaling.

    L = mean_b importance_b ½ Σ_t (y_t - Q(o_t, a_t))² over the unroll's transitions, with
    y_t = h(Σ_{k<n} γ^k r_{t+k+1} + γ^n h⁻¹(Q⁻(o_{t+n}, argmax_a Q(o_{t+n}, a)))).
    """
    start, scale, clip = unroll.burn_in, config.reward_scale, config.reward_clip
    rewards = shape_rewards(unroll.rows.rewards, scale, clip)  # [K + T + 1, B] float32
    q_values = _learned_q_values(agent, unroll, rewards, config)  # [T + 1, B, A] float32
    with torch.no_grad():
        target_q_values = _learned_q_values(target, unroll, rewards, config)
        bootstraps = _of_actions(target_q_values, q_values.argmax(dim=-1))  # [T + 1, B] float32
    q_taken = _of_actions(q_values[:-1], unroll.actions[start:-1])  # [T, B] float32
    steps = _compare(q_taken, bootstraps, unroll.rows.between(start), rewards[start:], config)
    per_unroll = 0.5 * steps.errors.square().sum(dim=0)  # [B] float32
    priorities = sequence_priorities(steps.errors, steps.valid, config.max_priority_share)
    with torch.no_grad():
        count = steps.valid.sum().clamp(min=1)
        metrics = {
            "q_mean": q_taken.masked_fill(~steps.valid, 0.0).sum() / count,
            "target_mean": steps.targets.masked_fill(~steps.valid, 0.0).sum() / count,
            "td_error_mean": steps.errors.abs().sum() / count,
            "priority_mean": priorities.mean(),
            "importance_mean": unroll.importance.mean(),
        }
        if clip:
            clipped = steps.valid & is_clipped(unroll.rows.rewards[start + 1 :], scale, clip)
            metrics["reward_clipped_share"] = clipped.sum() / count
    return LossResult((unroll.importance * per_unroll).mean(), metrics, priorities)


def update_target(
    agent: RecurrentQ, target: RecurrentQ, learner_steps: int, config: Config
) -> None:
    """Makes the target a copy of the agent every `target_period_updates` updates."""
    if learner_steps % config.target_period_updates == 0:
        target.load_state_dict(agent.state_dict())


def initial_priorities(unroll: Unroll, config: Config) -> Tensor:
    """Priorities `[B] float32` from the values that acting saw; no network runs.

    The errors are those of `loss` with the acting network as both agent and target.
    """
    steps = _compare(
        unroll.behaviour["q_taken"][:-1],
        unroll.behaviour["q_max"],
        unroll.rows,
        shape_rewards(unroll.rows.rewards, config.reward_scale, config.reward_clip),
        config,
    )
    return sequence_priorities(steps.errors, steps.valid, config.max_priority_share)


class _Comparison(NamedTuple):
    """The T steps of an unroll, all in rescaled values. `[T, B]`

    Attributes:
        targets: What Q of the action should be. float32, without gradient
        errors: Target minus Q, zero where there was no transition. float32
        valid: Whether there was a transition. bool
    """

    targets: Tensor
    errors: Tensor
    valid: Tensor


def _compare(
    q_taken: Tensor, bootstraps: Tensor, rows: Rows, rewards: Tensor, config: Config
) -> _Comparison:
    """Compares Q of the actions `[T, B]` with their n-step targets.

    Args:
        q_taken: Rescaled value of each action. `[T, B] float32`
        bootstraps: Rescaled value of each row's observation. `[T + 1, B] float32`
        rows: `[T + 1, B]`
        rewards: The rows' own, as the algorithm takes them. `[T + 1, B] float32`
        config: The formulas' settings.
    """
    values = unscale(bootstraps, config.rescale_epsilon)  # [T + 1, B] float32
    steps = transitions(
        rows.terminated, rows.truncated, rows.first, rewards, values, config.discount
    )
    returns = n_step_targets(steps.rewards, steps.discounts, values[1:], config.n_steps)
    targets = rescale(returns, config.rescale_epsilon)  # [T, B] float32
    valid = steps.valid != 0  # [T, B] bool
    return _Comparison(targets, (targets - q_taken).masked_fill(~valid, 0.0), valid)


def _learned_q_values(
    agent: RecurrentQ, unroll: Unroll, rewards: Tensor, config: Config
) -> Tensor:
    """Q of the rows after the burn-in, `[T + 1, B, A] float32`; no gradient into the burn-in."""
    start, state = unroll.burn_in, unroll.agent_state
    if not config.stored_state:
        state = torch.zeros_like(state)
    if start and agent.state_size:
        with torch.no_grad():
            state = agent.advance(unroll.rows.between(0, start), rewards[:start], state)
    q_values: Tensor = agent(unroll.rows.between(start), rewards[start:], state)[0]
    return q_values


def _of_actions(q_values: Tensor, actions: Tensor) -> Tensor:
    """Q of the actions `[...] int64` among `[..., A] float32`; the actions' shape."""
    return q_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
