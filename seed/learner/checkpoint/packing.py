"""Networks and optimizers as tensors by name, and back into others of the same form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seed.learner.checkpoint.naming import CheckpointError
from seed.learner.optimizers import named_state

_OPTIMIZER = "optimizer."
# Of an integer that a parameter's place can be.
_MOST_DIGITS = 10
_ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}


def pack(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Every tensor of the modules and of the optimizer's state, by name.

    The optimizer trains parameters of the module "agent", whose names its state has.
    """
    tensors = {
        f"{name}.{key}": tensor
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    state = named_state(optimizer, modules["agent"])
    return tensors | {_OPTIMIZER + key: tensor for key, tensor in state.items()}


def unpack_module(tensors: dict[str, Tensor], name: str, module: nn.Module) -> None:
    """Loads what `pack` kept of a module; raises CheckpointError where it does not fit."""
    start = f"{name}."
    kept = {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}
    expected, weights = module.state_dict(), dict(module.named_parameters())
    for key in sorted(kept.keys() | expected.keys()):
        there, here = _form(kept.get(key)), _form(expected.get(key))
        if there != here:
            raise CheckpointError(
                f"the checkpoint is of another network: {start + key!a} is {there} there, "
                f"{here} here"
            )
        # A buffer may be infinite, a mask say.
        usable = torch.isfinite(kept[key]) if key in weights else ~torch.isnan(kept[key])
        if not usable.all():
            raise CheckpointError(f"{start + key!a} holds what is no finite number")
    module.load_state_dict(kept)


def unpack_optimizer(
    tensors: dict[str, Tensor], agent: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Loads what `pack` kept of the optimizer; raises CheckpointError where it does not fit.

    Version 0.1 kept it by the parameters' places among the agent's, which is read too.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(trained)}
    parameters = dict(agent.named_parameters())
    needed = _ADAM_STATE if isinstance(optimizer, torch.optim.Adam) else set()
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if not key.startswith(_OPTIMIZER):
            continue
        owner, _, part = key.removeprefix(_OPTIMIZER).rpartition(".")
        parameter = parameters.get(_name_of(owner, list(parameters)))
        if parameter is None or id(parameter) not in places:
            raise _of_another_optimizer(f"{key!a} is of no parameter that is trained here")
        shape = () if part == "step" else parameter.shape
        if tensor.shape != shape or not tensor.is_floating_point():
            raise _of_another_optimizer(f"{key!a} is {_form(tensor)}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{key!a} holds what is no finite number")
        state.setdefault(places[id(parameter)], {})[part] = tensor
    for place, kept in state.items():
        if missing := needed - kept.keys():
            name = next(name for name, each in parameters.items() if each is trained[place])
            raise _of_another_optimizer(f"optimizer.{name} lacks {', '.join(sorted(missing))}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _name_of(owner: str, names: list[str]) -> str:
    """The parameter whose state a checkpoint has as `owner`: its name, or its place in 0.1."""
    if owner in names or not (owner.isdecimal() and owner.isascii() and len(owner) < _MOST_DIGITS):
        return owner
    return names[int(owner)] if int(owner) < len(names) else owner


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _of_another_optimizer(why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint is of another optimizer or network: {why}")
