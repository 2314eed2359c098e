"""Everything that the author of an algorithm imports, beside the formulas of `seed.ops`.

Owns the form of an algorithm's module and of what goes into its functions and comes out, and hands
on the parts of networks. No thread is at home here. Those who run algorithms find them by
`seed.contract.loading`, and check what they return by `seed.contract.answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    "Group",
    "LossResult",
    "NetworkConfig",
    "Passes",
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
        count: What the loss was divided by, without gradient; None for a sum. `[]`
        statistics: For `after_batch`, by name, without gradient: sums over the rows, of shapes that
            do not depend on B. None for none.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    priorities: Tensor | None = None
    # In the place of a tuple's method, which nobody calls here.
    count: Tensor | None = None  # type: ignore[assignment]
    statistics: dict[str, Tensor] | None = None


class Group(NamedTuple):
    """Parameters that are trained alike, as `groups` names them.

    Attributes:
        parameters: In no other group; all groups together have every one with a gradient.
        learning_rate: At the first frame, and from there on with the schedule of the
            configuration's; None for the configuration's `optimizer.learning_rate`.
        clip_norm: Largest norm of this group's gradient, 0 for no clipping; None for the
            configuration's `optimizer.clip_norm`.
    """

    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None
    clip_norm: float | None = None


class Passes(NamedTuple):
    """How often, and in which parts, a batch is learned from, as `passes` says.

    Attributes:
        epochs: Passes over the whole batch.
        minibatches: Updates of each pass, as near to each other in size as can be.
        items: What is shuffled and dealt out: "unrolls", whole and with their state, or "rows",
            the T of each unroll that actions were taken at, as `[1, n]`.
        stop: A metric of the loss that ends the passes, before the update; "" for none.
        limit: The largest value of that metric with which an update is made.
    """

    epochs: int = 1
    minibatches: int = 1
    items: Literal["unrolls", "rows"] = "unrolls"
    stop: str = ""
    limit: float = 0.0


class Algorithm(Protocol):
    """The names that an algorithm's module must have; `seed.contract.loading` has the others."""

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
