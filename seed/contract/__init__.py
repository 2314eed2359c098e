"""Everything that the author of an algorithm imports, beside the formulas of `seed.ops`.

Owns the form of an algorithm's module and of what goes into its functions and comes out, and hands
on the parts of networks. No thread is at home here. Those who run algorithms find them by
`seed.contract.loading`, and check what they return by `seed.contract.answers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from seed.config.schema import ConfigError, NetworkConfig
from seed.networks.actor_critic import ActorCritic, ActorCriticOutput
from seed.networks.body import Body
from seed.networks.dueling import DuelingHead
from seed.networks.policy import Categorical, DiagonalGaussian, make_policy
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec

__all__ = [
    "ActOutput",
    "ActorCritic",
    "ActorCriticOutput",
    "Algorithm",
    "Body",
    "Categorical",
    "ConfigError",
    "DiagonalGaussian",
    "DuelingHead",
    "Fleet",
    "LossResult",
    "NetworkConfig",
    "Rows",
    "SpaceSpec",
    "Unroll",
    "make_policy",
]


@dataclass(frozen=True)
class Fleet:
    """Where in the fleet the B environments are whose rows an agent sees.

    Attributes:
        positions: From 0 for the first training environment to 1 for the last, evenly spaced; 0
            where there is only one, and for evaluation environments. `[B] float32`
        evaluation: Environments whose rows are never learned from. `[B] bool`
    """

    positions: Tensor
    evaluation: Tensor


class ActOutput(NamedTuple):
    """What an agent did at one row of each of B environments.

    Attributes:
        actions: `[B]` int64, or `[B, *shape]` float32 for Box actions.
        behaviour: Stored with each row and seen again in `Unroll.behaviour`. `[B, ...]` each.
        agent_state: The recurrent state after the row. `[B, S] float32`
    """

    actions: Tensor
    behaviour: dict[str, Tensor]
    agent_state: Tensor


class LossResult(NamedTuple):
    """What a loss returns.

    Attributes:
        loss: To be minimized. `[]`
        metrics: Scalars for the log, by name, detached. `[]` each.
        priorities: For replay, per unroll, without gradient; None leaves them as they are. `[B]`
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    priorities: Tensor | None = None


class Algorithm(Protocol):
    """The names in an algorithm's module."""

    Config: type
    DATA_SOURCE: Literal["queue", "replay"]

    def make_agent(
        self, observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Any
    ) -> nn.Module:
        """The network, made once to act and once to learn.

        Its attribute `state_size` counts the numbers of an environment's recurrent state, which
        is zero where an episode starts; 0 for none.
        """

    def act(
        self,
        agent: nn.Module,
        rows: Rows,
        agent_state: Tensor,
        config: Any,
        *,
        fleet: Fleet,
        greedy: bool,
    ) -> ActOutput:
        """Chooses actions for rows `[1, B, ...]`; `greedy` picks the best instead of sampling."""

    def loss(
        self, agent: nn.Module, target: nn.Module | None, unroll: Unroll, config: Any
    ) -> LossResult:
        """The loss of a batch of unrolls: a pure function of its arguments.

        `target` is None unless the module has `update_target`.
        """
