"""What an algorithm's file exports, and how it is found by name or import path."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

from torch import Tensor, nn

from seed.config.schema import ConfigError, NetworkConfig
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec


@dataclass(frozen=True)
class Fleet:
    """Where the B environments whose rows an agent sees stand among all that are connected.

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


# Names that a module may leave out: None stands for them.
UpdateTarget = Callable[[nn.Module, nn.Module, int, Any], None]
InitialPriorities = Callable[[Unroll, Any], Tensor]


def optional_update_target(algorithm: Algorithm) -> UpdateTarget | None:
    """The module's `update_target(agent, target, learner_steps, config)`, if it has one.

    Its presence gives the learner a target network, a copy of the agent at first. It is called
    after every update and changes the target's weights in place, or does not.
    """
    return getattr(algorithm, "update_target", None)


def optional_initial_priorities(algorithm: Algorithm) -> InitialPriorities | None:
    """The module's `initial_priorities(unroll, config) -> [B] float32`, if it has one.

    Gives unrolls their priorities when they enter replay, from what acting has kept of them:
    `rows.observations` is left out (`[T + 1, B, 0]`) and there is no burn-in. Without it, an
    unroll enters with priority 1.
    """
    return getattr(algorithm, "initial_priorities", None)


_NAMES = ("Config", "DATA_SOURCE", "make_agent", "act", "loss")


def load_algorithm(name: str) -> Algorithm:
    """The module `seed.algorithms.NAME`, or the module at the import path NAME.

    Raises:
        ConfigError: where there is no such module, or it lacks a name of the contract.
    """
    paths = [name] if "." in name else [f"seed.algorithms.{name}", name]
    path = next((path for path in paths if _is_module(path)), None)
    if path is None:
        raise ConfigError(
            f"algorithm.name = {name!r}: no module of that name; expected one of "
            f"{', '.join(_own())}, or the import path of a module"
        )
    # Standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            module = importlib.import_module(path)
        except SystemExit as error:
            raise ConfigError(
                f"algorithm.name = {name!r}: {path} ends the process while it is imported "
                f"(SystemExit: {error}); expected a module, not a program"
            ) from None
    missing = [needed for needed in _NAMES if not hasattr(module, needed)]
    if missing:
        raise ConfigError(f"algorithm.name = {name!r}: {path} lacks {', '.join(missing)}")
    if module.DATA_SOURCE not in ("queue", "replay"):
        raise ConfigError(
            f"algorithm.name = {name!r}: DATA_SOURCE = {module.DATA_SOURCE!r}, expected 'queue' or "
            "'replay'"
        )
    return cast(Algorithm, module)


def _own() -> list[str]:
    """The names of the algorithms that come with the package."""
    folder = Path(__file__).parents[1] / "algorithms"
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def _is_module(path: str) -> bool:
    """Whether there is such a module; raises what its packages raise while they are imported."""
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):
            raise
        return False
    except (ImportError, ValueError):
        return False


def load_algorithm_config(name: str) -> type:
    """The configuration dataclass of the algorithm with this name; raises ConfigError."""
    return load_algorithm(name).Config
