"""The network of actor-critics: a body, and a head each for the policy and the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from seed.networks.body import Body
from seed.networks.policy import make_policy

if TYPE_CHECKING:
    from seed.config.schema import NetworkConfig
    from seed.store.rows import Rows
    from seed.wire.spaces import SpaceSpec


class ActorCriticOutput(NamedTuple):
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
    """A body with a policy head and a value head.

    policy: the action distribution (`seed.networks.policy`), for the parameters that `forward`
    returns. state_size: the size of the recurrent state, 0 without LSTM.
    """

    def __init__(self, observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig) -> None:
        """The policy head's weights start small, so that the first policy is near uniform.

        Raises ValueError when the torso cannot read the observation.
        """
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

    def forward(
        self, rows: Rows, rewards: Tensor, agent_state: Tensor, burn_in: int = 0
    ) -> ActorCriticOutput:
        """Runs over `[K + T, B]` rows; `rewards` are the rows' own, as the network may see them.

        The first `burn_in` (K) of them only bring the state up to date: there is no gradient
        through them, and what is returned is of the others.
        """
        if burn_in:
            with torch.no_grad():
                agent_state = self(
                    rows.between(0, burn_in), rewards[:burn_in], agent_state
                ).agent_state
            rows, rewards = rows.between(burn_in), rewards[burn_in:]
        features, agent_state = self.body(
            rows.observations, rows.previous_actions, rewards, rows.first, agent_state
        )
        values = self.value_head(features).squeeze(-1)  # [T, B] float32
        return ActorCriticOutput(self.policy_head(features), values, agent_state)

    def choose(self, policy: Tensor, *, greedy: bool) -> Tensor:
        """Actions `[B, *shape]` for parameters `[B, P]`: the likeliest, or else drawn at random."""
        actions = self.policy.mode(policy) if greedy else self.policy.sample(policy)
        return actions.view(len(actions), *self.action_shape)
