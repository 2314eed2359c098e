"""Whether what an algorithm's functions return is what the contract says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seed.config.schema import ConfigError
from seed.contract import ActOutput, Group, LossResult, Passes
from seed.store.layout import Column

# Metrics that the learner measures itself.
RESERVED_METRICS = ("loss", "grad_norm", "policy_version_mean")
# Those of them that may end the passes over a batch.
_STOPPING = ("loss", "grad_norm")


def check_agent(
    agent: object, name: str, acting_part: Callable[[nn.Module], object] | None = None
) -> nn.Module:
    """What `make_agent` of the algorithm with this name returned, and its part that acts.

    Raises:
        ConfigError: where that is no module with a `state_size`.
    """
    if not isinstance(agent, nn.Module):
        raise _wrong(name, "make_agent", f"gives {_kind(agent)}, expected a torch.nn.Module")
    part, function, whole = agent, "make_agent", "an agent"
    if acting_part is not None:
        part, function, whole = acting_part(agent), "acting_part", "a module"  # type: ignore[assignment]
        if not any(part is module for module in agent.modules()):
            raise _wrong(
                name, function,
                f"gives {_kind(part)}, expected the agent or a module in it: only what is trained "
                "and saved can act",
            )  # fmt: skip
    size = getattr(part, "state_size", None)
    if type(size) is not int or size < 0:
        raise _wrong(
            name, function,
            f"gives {whole} with state_size {size!r}; expected how many numbers its recurrent "
            "state has, 0 for none",
        )  # fmt: skip
    return agent


def check_groups(groups: Any, agent: nn.Module, name: str) -> dict[str, Group]:
    """What `groups` of the algorithm with this name returned for this agent.

    Raises:
        ConfigError: where a parameter that requires a gradient is in none, or one in two.
    """
    if not isinstance(groups, dict) or not groups:
        raise _wrong(name, "groups", f"gives {_kind(groups)}; expected a dict of Groups by name")
    names = {id(parameter): key for key, parameter in agent.named_parameters()}
    owners: dict[int, str] = {}
    for key, group in groups.items():
        if not isinstance(group, Group):
            raise _wrong(
                name, "groups", f"gives {key!r}: {_kind(group)}; expected a seed.contract.Group"
            )
        for field in ("learning_rate", "clip_norm"):
            value = getattr(group, field)
            if value is not None and not (_is_number(value) and value >= 0):
                raise _wrong(
                    name, "groups",
                    f"gives {key!r} {field} = {value!r}; expected None or at least 0",
                )  # fmt: skip
        for parameter in group.parameters:
            if id(parameter) not in names:
                raise _wrong(
                    name, "groups",
                    f"gives {key!r} {_form(parameter)} that is no parameter of the agent",
                )  # fmt: skip
            if id(parameter) in owners:
                raise _wrong(
                    name, "groups",
                    f"gives {names[id(parameter)]} to {owners[id(parameter)]!r} and {key!r}; "
                    "expected each parameter in one group",
                )  # fmt: skip
            owners[id(parameter)] = key
    missing = [
        key for key, parameter in agent.named_parameters()
        if parameter.requires_grad and id(parameter) not in owners
    ]  # fmt: skip
    if missing:
        raise _wrong(
            name, "groups",
            f"leaves out {', '.join(missing)}; expected every parameter that requires a gradient",
        )  # fmt: skip
    return groups


def check_passes(
    passes: Any,
    name: str,
    *,
    replay: bool,
    batch_size: int,
    unroll_length: int,
    state_size: int,
    burn_in: int,
) -> Passes:
    """What `passes` of the algorithm with this name returned, for a run of these sizes.

    Raises:
        ConfigError: naming what is of another form, or does not fit the run.
    """

    def wrong(what: str) -> ConfigError:
        return _wrong(name, "passes", what)

    if not isinstance(passes, Passes):
        raise wrong(f"gives {_kind(passes)}; expected a seed.contract.Passes")
    if replay:
        raise wrong("is for DATA_SOURCE = 'queue'; replay has replay.ratio for it")
    for field in ("epochs", "minibatches"):
        value = getattr(passes, field)
        if type(value) is not int or value < 1:
            raise wrong(f"gives {field} = {value!r}; expected an integer of at least 1")
    if passes.items not in ("unrolls", "rows"):
        raise wrong(f"gives items = {passes.items!r}; expected 'unrolls' or 'rows'")
    if not isinstance(passes.stop, str):
        raise wrong(f"gives stop = {passes.stop!r}; expected the name of a metric, or ''")
    if not _is_number(passes.limit):
        raise wrong(f"gives limit = {passes.limit!r}; expected a finite number")
    rows = passes.items == "rows"
    if rows and state_size:
        raise wrong(
            f"gives items = 'rows', and the agent has a recurrent state ({state_size} numbers), "
            "which rows alone do not have; expected 'unrolls'"
        )
    if rows and burn_in:
        raise wrong(f"gives items = 'rows' with learner.burn_in = {burn_in}; expected 'unrolls'")
    count = batch_size * unroll_length if rows else batch_size
    if passes.minibatches > count:
        raise wrong(
            f"gives minibatches = {passes.minibatches}; expected at most the {count} "
            f"{passes.items} of a batch (learner.batch_size = {batch_size})"
        )
    return passes


def check_prepared(
    prepared: Any, name: str, *, length: int, batch: int, device: torch.device
) -> dict[str, Tensor]:
    """What `prepare` of the algorithm with this name returned for B unrolls of T steps.

    Raises:
        ConfigError: naming what is missing or of another form.
    """
    returned = _Returned(None, None, name, "prepare", device)
    for key, value in returned.named("what it makes", prepared).items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        returned.expect(repr(key), value, (length, batch, *shape[2:]), gradient=False)
    return prepared  # type: ignore[no-any-return]


def check_acted(
    acted: Any, name: str, *, batch: int, action: Column, state_size: int, device: torch.device
) -> None:
    """What `act` of the algorithm with this name returned for B rows.

    Raises:
        ConfigError: naming what is missing or of another form.
    """
    returned = _Returned(acted, ActOutput, name, "act", device)
    returned.expect("actions", acted.actions, (batch, *action.shape), action.dtype)
    for key, value in returned.named("behaviour", acted.behaviour).items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        returned.expect(f"behaviour[{key!r}]", value, (batch, *shape[1:]))
    if state_size:
        returned.expect("agent_state", acted.agent_state, (batch, state_size), torch.float32)


def check_result(
    result: Any,
    name: str,
    *,
    batch: int,
    device: torch.device,
    stop: str = "",
    after_batch: bool = False,
) -> None:
    """What `loss` of the algorithm with this name returned for B unrolls.

    Args:
        result: That.
        name: The algorithm's.
        batch: B.
        device: Where the unrolls are.
        stop: The metric that ends the passes over a batch.
        after_batch: Whether the algorithm has a function of that name.

    Raises:
        ConfigError: naming what is missing or of another form.
    """
    returned = _Returned(result, LossResult, name, "loss", device)
    returned.expect("loss", result.loss, (), gradient=True)
    for key, value in returned.named("metrics", result.metrics).items():
        if key in RESERVED_METRICS:
            raise _wrong(name, "loss", f"gives metrics[{key!r}], which the learner has already")
        returned.expect(f"metrics[{key!r}]", value, (), gradient=False)
    if stop and stop not in {*result.metrics, *_STOPPING}:
        known = ", ".join([*_STOPPING, *result.metrics])
        raise _wrong(name, "passes", f"gives stop = {stop!r}; expected a metric of loss: {known}")
    if result.priorities is not None:
        returned.expect("priorities", result.priorities, (batch,), gradient=False)
    if result.count is not None:
        returned.expect("count", result.count, (), gradient=False)
    if result.statistics is not None:
        if not after_batch:
            raise _wrong(name, "loss", "gives statistics, and there is no after_batch to read them")
        for key, value in returned.named("statistics", result.statistics).items():
            shape = tuple(value.shape) if isinstance(value, Tensor) else ()
            returned.expect(f"statistics[{key!r}]", value, shape, gradient=False)


def check_first_priorities(priorities: object, name: str, *, batch: int) -> Tensor:
    """What `initial_priorities` of the algorithm with this name returned for B unrolls.

    Raises:
        ConfigError: where that is no `[B] float32`.
    """
    if (
        isinstance(priorities, Tensor)
        and priorities.shape == (batch,)
        and priorities.dtype == torch.float32
    ):
        return priorities
    wanted = f"a tensor of shape {(batch,)} and torch.float32"
    raise _wrong(name, "initial_priorities", f"gives {_form(priorities)}; expected {wanted}")


class _Returned:
    """What one function returned, and how to say what is wrong with it."""

    def __init__(
        self, value: object, form: Any, name: str, function: str, device: torch.device
    ) -> None:
        """Raises ConfigError where `value` lacks fields of the NamedTuple `form`, if any."""
        self._name, self._function, self._device = name, function, device
        fields = form._fields if form is not None else ()
        missing = [field for field in fields if not hasattr(value, field)]
        if missing:
            raise _wrong(
                name, function,
                f"gives {_kind(value)} without {', '.join(missing)}; expected "
                f"seed.contract.{form.__name__}({', '.join(form._fields)})",
            )  # fmt: skip

    def named(self, field: str, value: object) -> dict[str, object]:
        """What must be a dictionary."""
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
        raise self._unfit(field, _kind(value), "a dict of tensors by name")

    def expect(
        self,
        field: str,
        value: object,
        shape: tuple[int, ...],
        dtype: torch.dtype | None = None,
        *,
        gradient: bool | None = None,
    ) -> None:
        """What must be a tensor of this form on the device of the function's arguments."""
        wanted = f"a tensor of shape {shape}{f' and {dtype}' if dtype else ''} on {self._device}"
        if gradient is not None:
            wanted += f", {'with' if gradient else 'without'} gradient"
        if not isinstance(value, Tensor):
            raise self._unfit(field, _form(value), wanted)
        fits = tuple(value.shape) == shape and dtype in (None, value.dtype)
        fits &= value.device.type == self._device.type
        if not fits or gradient not in (None, value.requires_grad):
            found = f"{_form(value)} on {value.device}"
            found += f", {'with' if value.requires_grad else 'without'} gradient"
            raise self._unfit(field, found, wanted)

    def _unfit(self, field: str, found: str, wanted: str) -> ConfigError:
        return _wrong(self._name, self._function, f"gives {field}: {found}; expected {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return _kind(value)


def _wrong(name: str, function: str, what: str) -> ConfigError:
    return ConfigError(f"algorithm.name = {name!r}: {function} {what}")
