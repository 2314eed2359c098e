"""Optimizers and the learning rate's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from seed.config.schema import OptimizerConfig
    from seed.contract import Group


class RmsPropTf(torch.optim.Optimizer):
    """RMSProp (Tieleman and Hinton 2012) in TensorFlow's form, which the Atari recipes assume.

        mean_square = decay * mean_square + (1 - decay) * gradient^2     (starts at one)
        step = learning_rate * gradient / sqrt(mean_square + epsilon)
        momentum_buffer = momentum * momentum_buffer + step              (starts at zero)
        parameter -= momentum_buffer

    torch's own RMSprop starts mean_square at zero and adds epsilon outside the root, so the
    same settings give far larger first steps there.

    learning_rate: read anew at every step from `param_groups[i]["lr"]`. A tensor `[] float32` on
    the parameters' device lets a captured step (`seed.device.graphs`) follow its changes.

    Raises ValueError when a setting is out of its range.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        learning_rate: float | Tensor,
        *,
        decay: float = 0.99,
        momentum: float = 0.0,
        epsilon: float = 0.01,
    ) -> None:
        """All settings of the formula; `learning_rate` may be a tensor, see above.

        Raises ValueError when a setting is out of its range.
        """
        for name, fraction in {"decay": decay, "momentum": momentum}.items():
            if not 0 <= fraction < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {fraction}")
        if not learning_rate >= 0:
            raise ValueError(f"learning_rate must be at least 0, got {learning_rate}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}; IMPALA takes 0.01 on Atari")
        settings = {"lr": learning_rate, "decay": decay, "momentum": momentum, "epsilon": epsilon}
        super().__init__(parameters, settings)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return the closure's loss, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean_squares = self._buffers("mean_square", parameters, 1.0)
        torch._foreach_mul_(mean_squares, group["decay"])
        torch._foreach_addcmul_(mean_squares, gradients, gradients, 1 - group["decay"])
        roots = torch._foreach_add(mean_squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        rate = group["lr"]
        if isinstance(rate, Tensor):
            # Below it would be read back to the host. A rate of 0 makes the roots infinite.
            torch._foreach_div_(roots, rate)
            rate = 1.0
        if group["momentum"] == 0:
            torch._foreach_addcdiv_(parameters, gradients, roots, -rate)
            return
        momentum_buffers = self._buffers("momentum_buffer", parameters, 0.0)
        torch._foreach_mul_(momentum_buffers, group["momentum"])
        torch._foreach_addcdiv_(momentum_buffers, gradients, roots, rate)
        torch._foreach_sub_(parameters, momentum_buffers)

    def _buffers(self, name: str, parameters: list[Tensor], start: float) -> list[Tensor]:
        """Return the named buffer of each parameter, made with value `start` where it is new."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.full_like(parameter, start)
        return [self.state[parameter][name] for parameter in parameters]


def make_optimizer(
    parameters: Iterable[Tensor] | Mapping[str, Group],
    config: OptimizerConfig,
    *,
    capturable: bool = False,
) -> torch.optim.Optimizer:
    """Return the optimizer that `config.kind` names, at the starting learning rate.

    "rmsprop_tf" reads decay, momentum and epsilon; "adam" reads beta1, beta2 and epsilon. To
    change the learning rate, call `set_learning_rate`. Clipping is left to the learner.

    parameters: what is trained, or groups of it, of which each becomes one of `param_groups` with
    its own rate as `own_rate` and its `clip_norm`, None where they are the configuration's.
    capturable: whether its steps may be captured on a GPU; the parameters are there.
    """
    groups: list[dict[str, Any]]
    if isinstance(parameters, Mapping):
        groups = [
            {
                "params": list(group.parameters),
                "own_rate": group.learning_rate,
                "clip_norm": group.clip_norm,
            }
            for group in parameters.values()
        ]
    else:
        groups = [{"params": list(parameters), "own_rate": None, "clip_norm": None}]
    for group in groups:
        own: float | None = group["own_rate"]
        group["lr"] = config.learning_rate if own is None else own
        if capturable:
            # [] float32, one of each group's own
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    if config.kind == "rmsprop_tf":
        return RmsPropTf(
            groups,
            config.learning_rate,
            decay=config.decay,
            momentum=config.momentum,
            epsilon=config.epsilon,
        )
    return torch.optim.Adam(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
        capturable=capturable,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, learning_rate: float, fraction: float = 1.0
) -> None:
    """Set the learning rate of all parameters, for the next step on.

    learning_rate: of groups without a rate of their own.
    fraction: what is left of the others' own; see `learning_rate_fraction`.
    """
    for group in optimizer.param_groups:
        own = group.get("own_rate")
        rate = learning_rate if own is None else own * fraction
        if isinstance(group["lr"], Tensor):
            # In place: a captured step reads it where it is.
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate_fraction(config: OptimizerConfig, progress: float) -> float:
    """Return what is left of a learning rate after `progress`, the share of all frames done.

    Falls linearly from 1 at 0 to final_learning_rate_fraction at 1. Progress past 1 counts as 1,
    because the last unrolls run over the total.
    """
    return 1 + (config.final_learning_rate_fraction - 1) * min(progress, 1.0)


def linear_learning_rate(config: OptimizerConfig, progress: float) -> float:
    """Return the learning rate after `progress`, the share of all frames that are done."""
    return config.learning_rate * learning_rate_fraction(config, progress)


def named_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of the optimizer's state, such as `torso.0.weight.exp_avg`.

    module: has all that the optimizer trains, and gives it its names.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{names[id(parameter)]}.{key}": tensor
        for parameter, state in optimizer.state.items()
        for key, tensor in state.items()
    }
