"""One update of the network, in three steps: gradient, norms, and the optimizer's own step.

On a GPU each is a graph if asked for. Between gradient and norms several processes would add up
their gradients; one has nothing to do there. Between norms and step the host sees loss, metrics and
norm, in one transfer, and decides whether any weight changes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seed.config.schema import Config
from seed.contract import Algorithm, Passes
from seed.contract.answers import check_result
from seed.contract.loading import optional_after_batch
from seed.device.graphs import CapturedCall
from seed.device.transfer import move, overwrite
from seed.learner.optimizers import set_learning_rate
from seed.store.rows import Unroll

_FIELD = "learner.cuda_graphs"


class UpdateResult(NamedTuple):
    """What the backward pass found.

    Attributes:
        scalars: The algorithm's metrics, "loss", "grad_norm" (over all groups, before clipping)
            and "policy_version_mean", of the weights that acted; by name.
        priorities: For replay; overwritten by the next call. `[B] float32`, or None
        weight: What the loss was divided by; 1 for a sum.
        statistics: The algorithm's, for `after_batch`; overwritten by the next call.
    """

    scalars: dict[str, float]
    priorities: Tensor | None
    weight: float = 1.0
    statistics: dict[str, Tensor] | None = None

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are."""
        return all(math.isfinite(self.scalars[name]) for name in ("loss", "grad_norm"))


class _DeviceResult(NamedTuple):
    """An `UpdateResult` still on the device, without the norm of the gradient.

    `values` `[n] float32` are scalars in the order of `names`. `exact` `[2] float64` are the mean
    version, which float32 would round from 2^24 on, and the weight.
    """

    names: tuple[str, ...]
    values: Tensor
    exact: Tensor
    priorities: Tensor | None
    statistics: dict[str, Tensor] | None


class Update:
    """Some unrolls at a time: `load`, `backward`, then `step` or `discard`; the learner's thread.

    Graphs are captured for numbers of unrolls that are planned, each with memory of its own; others
    are learned from call by call.
    """

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        agent: nn.Module,
        target: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        passes: Passes | None = None,
    ) -> None:
        """All of the network is on one device; the optimizer is over the agent's parameters.

        `passes` says what a batch is cut into, which is nothing without it.
        """
        self._config = config
        self._algorithm = algorithm
        self._agent = agent
        self._target = target
        self._optimizer = optimizer
        self._passes = passes or Passes()
        self._device = next(agent.parameters()).device
        self._gradient = self._call(self._loss_and_gradient, capture=False)
        self._clip = self._call(self._clip_gradient)
        self._step = self._call(optimizer.step)
        # By the number of unrolls: memory that stays, and the graph that reads it.
        self._planned: dict[int, CapturedCall[_DeviceResult]] = {}
        self._kept: dict[int, Unroll] = {}
        self._unroll: Unroll | None = None
        self._checked = False

    def _call(self, function: Any, *, capture: bool = True) -> CapturedCall[Any]:
        capture = capture and self._config.learner.cuda_graphs
        return CapturedCall(function, self._device, capture=capture, field=_FIELD)

    def plan(self, sizes: Iterable[int]) -> None:
        """Numbers of unrolls that most batches will come in; the first plan holds."""
        if not self._planned and self._clip.captures:
            self._planned = {size: self._call(self._loss_and_gradient) for size in sizes}

    def load(self, unroll: Unroll) -> None:
        """Brings unrolls, copied for this update alone, to where they are learned from.

        For graphs the first ones' memory stays, and later ones are copied into it.
        """
        size = _size(unroll)
        self.plan([size])
        if size in self._kept:
            overwrite(self._kept[size], unroll)
            unroll = self._kept[size]
        self._unroll = move(unroll, self._device)
        if size in self._planned and size not in self._kept:
            # What was prepared may share memory with the agent, or be one number seen many times.
            own = {name: values.clone() for name, values in self._unroll.prepared.items()}
            self._kept[size] = self._unroll = dataclasses.replace(self._unroll, prepared=own)

    @property
    def unroll(self) -> Unroll:
        """The unrolls that were loaded last, until `step` or `discard`."""
        assert self._unroll is not None
        return self._unroll

    def backward(self) -> UpdateResult:
        """Loss and clipped gradient of the unrolls that were loaded; changes no weight.

        Raises:
            ConfigError: at the first call, where `loss` does not return what the contract says.
        """
        found = self._planned.get(_size(self.unroll), self._gradient)()
        norm = self._clip()
        # All values in one transfer from the device. The norm comes last, and so stands for all of
        # the gradient that the step would take.
        values = torch.cat([found.values, norm[None], found.exact]).tolist()
        names = (*found.names, "grad_norm", "policy_version_mean")
        weight = values.pop()
        scalars = dict(zip(names, values, strict=True))
        return UpdateResult(scalars, found.priorities, weight, found.statistics)

    def step(self, learning_rate: float, fraction: float = 1.0) -> None:
        """Changes the weights by the gradient of the last `backward`.

        Args:
            learning_rate: Of all parameters that have no rate of their own.
            fraction: Of the others' own rates.
        """
        set_learning_rate(self._optimizer, learning_rate, fraction)
        self._step()
        self.discard()

    def discard(self) -> None:
        """Forgets the unrolls that were loaded, and their gradient."""
        # Those that graphs read stay; others make room for the next.
        self._unroll = None

    def _loss_and_gradient(self) -> _DeviceResult:
        unroll = self.unroll
        result = self._algorithm.loss(self._agent, self._target, unroll, self._config.algorithm)
        if not self._checked:
            check_result(
                result, self._config.algorithm_name, batch=_size(unroll), device=self._device,
                stop=self._passes.stop,
                after_batch=optional_after_batch(self._algorithm) is not None,
            )  # fmt: skip
            self._checked = True
        # The graphs read gradients where they were when the first of them was captured.
        self._optimizer.zero_grad(set_to_none=not self._clip.captures)
        result.loss.backward()  # type: ignore[no-untyped-call]
        # Rows that are shuffled have lost the one to bootstrap from.
        end = None if self._passes.items == "rows" else -1
        acted = unroll.policy_versions[unroll.burn_in : end]  # [T, B] int64
        scalars = {"loss": result.loss.detach(), **result.metrics}
        values = torch.stack([value.float() for value in scalars.values()])
        weight = torch.ones_like(result.loss) if result.count is None else result.count
        exact = torch.stack([acted.double().mean(), weight.detach().double()])
        return _DeviceResult(tuple(scalars), values, exact, result.priorities, result.statistics)

    def _clip_gradient(self) -> Tensor:
        """Clips each group's gradient; returns the norm of all of it before, `[] float32`."""
        groups = self._optimizer.param_groups
        if len(groups) == 1:
            return self._clip_group(groups[0])
        gradients = [p.grad for p in self._agent.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        for group in groups:
            self._clip_group(group)
        return norm

    def _clip_group(self, group: dict[str, Any]) -> Tensor:
        limit = group.get("clip_norm")
        limit = self._config.optimizer.clip_norm if limit is None else limit
        return nn.utils.clip_grad_norm_(group["params"], limit or math.inf)


def _size(unroll: Unroll) -> int:
    """How many unrolls, or rows as `[1, n]`, there are."""
    return len(unroll.importance)
