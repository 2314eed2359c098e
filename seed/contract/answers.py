"""Whether what an algorithm's functions return is what the contract says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seed.config.schema import ConfigError
from seed.contract import ActOutput, LossResult
from seed.store.layout import Column

# Metrics that the learner measures itself.
RESERVED_METRICS = ("loss", "grad_norm", "policy_version_mean")


def check_agent(agent: object, name: str) -> nn.Module:
    """What `make_agent` of the algorithm with this name returned; raises ConfigError."""
    if not isinstance(agent, nn.Module):
        raise _wrong(name, "make_agent", f"gives {_kind(agent)}, expected a torch.nn.Module")
    size = getattr(agent, "state_size", None)
    if type(size) is not int or size < 0:
        raise _wrong(
            name, "make_agent",
            f"gives an agent with state_size {size!r}; expected how many numbers its recurrent "
            "state has, 0 for none",
        )  # fmt: skip
    return agent


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


def check_result(result: Any, name: str, *, batch: int, device: torch.device) -> None:
    """What `loss` of the algorithm with this name returned for B unrolls.

    Raises:
        ConfigError: naming what is missing or of another form.
    """
    returned = _Returned(result, LossResult, name, "loss", device)
    returned.expect("loss", result.loss, (), gradient=True)
    for key, value in returned.named("metrics", result.metrics).items():
        if key in RESERVED_METRICS:
            raise _wrong(name, "loss", f"gives metrics[{key!r}], which the learner has already")
        returned.expect(f"metrics[{key!r}]", value, (), gradient=False)
    if result.priorities is not None:
        returned.expect("priorities", result.priorities, (batch,), gradient=False)


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
        """Raises ConfigError where `value` lacks fields of the NamedTuple `form`."""
        self._name, self._function, self._device = name, function, device
        missing = [field for field in form._fields if not hasattr(value, field)]
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


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return _kind(value)


def _wrong(name: str, function: str, what: str) -> ConfigError:
    return ConfigError(f"algorithm.name = {name!r}: {function} {what}")
