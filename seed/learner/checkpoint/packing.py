"""Networks and optimizers as tensors by name, and back into others of the same form."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seed.learner.checkpoint.naming import CheckpointError

_OPTIMIZER_KEY = re.compile(r"optimizer\.([0-9]{1,9})\.(.+)")
_ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}


def pack(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Every tensor of the modules and of the optimizer's state, by name."""
    tensors = {
        f"{name}.{key}": tensor
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in state.items()}
    return tensors


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


def unpack_optimizer(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Loads what `pack` kept of the optimizer; raises CheckpointError where it does not fit."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    needed = _ADAM_STATE if isinstance(optimizer, torch.optim.Adam) else set()
    for key, tensor in tensors.items():
        found = _OPTIMIZER_KEY.fullmatch(key)
        if found is None:
            continue
        index, name = int(found[1]), found[2]
        shape = parameters[index].shape if index < len(parameters) else None
        if tensor.shape != (() if name == "step" else shape) or not tensor.is_floating_point():
            raise _of_another_optimizer(f"{key!a} is {_form(tensor)}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{key!a} holds what is no finite number")
        state.setdefault(index, {})[name] = tensor
    for index, kept in state.items():
        if missing := needed - kept.keys():
            raise _of_another_optimizer(f"optimizer.{index} lacks {', '.join(sorted(missing))}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _of_another_optimizer(why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint is of another optimizer or network: {why}")
