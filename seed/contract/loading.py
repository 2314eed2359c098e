"""How an algorithm's module is found by its name or import path, and which names it has."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from seed.contract import Algorithm, ConfigError, Group, Passes, Unroll

_NAMES = ("Config", "DATA_SOURCE", "make_agent", "act", "loss")
_OPTIONAL_FUNCTIONS = (
    "update_target", "initial_priorities", "prepare", "passes", "groups", "after_batch",
    "acting_part",
)  # fmt: skip


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
    _check_optional(module, name)
    return cast(Algorithm, module)


def _check_optional(module: Any, name: str) -> None:
    """Refuses names that may be left out, and are there as something else."""
    for optional in _OPTIONAL_FUNCTIONS:
        found = getattr(module, optional, None)
        if found is not None and not callable(found):
            raise ConfigError(
                f"algorithm.name = {name!r}: {optional} is a {type(found).__name__}, expected a "
                "function"
            )
    lockstep = getattr(module, "LOCKSTEP", False)
    if not isinstance(lockstep, bool):
        raise ConfigError(
            f"algorithm.name = {name!r}: LOCKSTEP = {lockstep!r}, expected True or False"
        )


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


# Names that a module may leave out: None stands for them.
UpdateTarget = Callable[[nn.Module, nn.Module, int, Any], None]
InitialPriorities = Callable[[Unroll, Any], Tensor]
Prepare = Callable[[nn.Module, nn.Module | None, Unroll, Any], dict[str, Tensor]]
MakePasses = Callable[[Any], Passes]
MakeGroups = Callable[[nn.Module, Any], dict[str, Group]]
AfterBatch = Callable[[nn.Module, nn.Module | None, dict[str, Tensor], int, Any], None]
ActingPart = Callable[[nn.Module], nn.Module]


def optional_lockstep(algorithm: Algorithm) -> bool:
    """The module's `LOCKSTEP`: whether acting is to wait for each update; False without it."""
    return bool(getattr(algorithm, "LOCKSTEP", False))


def optional_update_target(algorithm: Algorithm) -> UpdateTarget | None:
    """The module's `update_target(agent, target, learner_steps, config)`, if it has one.

    Its presence gives the learner a target network, a copy of the agent at first. It is called
    after every update and changes the target's weights in place, or does not.
    """
    return getattr(algorithm, "update_target", None)


def optional_initial_priorities(algorithm: Algorithm) -> InitialPriorities | None:
    """The module's `initial_priorities(unroll, config) -> [B] float32`, if it has one.

    Gives unrolls their priorities when they enter replay, from what acting has kept of them:
    `rows.observations` is left out (an empty dict) and there is no burn-in. Without it, an
    unroll enters with priority 1.
    """
    return getattr(algorithm, "initial_priorities", None)


def optional_prepare(algorithm: Algorithm) -> Prepare | None:
    """The module's `prepare(agent, target, unroll, config) -> dict[str, Tensor]`, if it has one.

    It is called once per batch, without gradient, and gives `[T, B, ...]` each, which `loss` sees
    as `unroll.prepared`.
    """
    return getattr(algorithm, "prepare", None)


def optional_passes(algorithm: Algorithm) -> MakePasses | None:
    """The module's `passes(config) -> Passes`, if it has one; else one update of each batch."""
    return getattr(algorithm, "passes", None)


def optional_groups(algorithm: Algorithm) -> MakeGroups | None:
    """The module's `groups(agent, config) -> dict[str, Group]`, if it has one.

    Without it all parameters are one group.
    """
    return getattr(algorithm, "groups", None)


def optional_after_batch(algorithm: Algorithm) -> AfterBatch | None:
    """The module's `after_batch(agent, target, statistics, learner_steps, config)`, if any.

    It changes tensors of the agent in place, once after all updates of a batch and before the
    weights are published; not where an update was skipped.
    """
    return getattr(algorithm, "after_batch", None)


def optional_acting_part(algorithm: Algorithm) -> ActingPart | None:
    """The module's `acting_part(agent) -> nn.Module`, if it has one; see `acting_part`."""
    return getattr(algorithm, "acting_part", None)


def acting_part(algorithm: Algorithm, agent: nn.Module) -> nn.Module:
    """The part of the agent that is published, acts and is evaluated: by default all of it."""
    find = optional_acting_part(algorithm)
    return agent if find is None else find(agent)
