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

from seed.contract import Algorithm, ConfigError, Unroll

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


# Names that a module may leave out: None stands for them.
UpdateTarget = Callable[[nn.Module, nn.Module, int, Any], None]
InitialPriorities = Callable[[Unroll, Any], Tensor]


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
