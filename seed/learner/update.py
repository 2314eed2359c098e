"""One update of the network: loss, gradient and optimizer, on a GPU as two graphs if asked for.

Between the two the host sees whether loss and gradient are finite, before any weight changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seed.config.schema import Config
from seed.contract import Algorithm
from seed.contract.answers import check_result
from seed.device.graphs import CapturedCall
from seed.device.transfer import move, overwrite
from seed.learner.optimizers import set_learning_rate
from seed.store.rows import Unroll

_FIELD = "learner.cuda_graphs"


class UpdateResult(NamedTuple):
    """What the backward pass found.

    Attributes:
        scalars: The algorithm's metrics, "loss", "grad_norm" (before clipping) and
            "policy_version_mean", of the weights that acted; by name.
        priorities: For replay; overwritten by the next call. `[B] float32`, or None
    """

    scalars: dict[str, float]
    priorities: Tensor | None


class _DeviceResult(NamedTuple):
    """An `UpdateResult` still on the device: `values` `[n] float32`, in the order of `names`."""

    names: tuple[str, ...]
    values: Tensor
    priorities: Tensor | None


class Update:
    """A batch at a time: `load`, `backward`, then `step` or `discard`; the learner's thread."""

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        agent: nn.Module,
        target: nn.Module | None,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """All of the network is on one device; the optimizer is over the agent's parameters."""
        self._config = config
        self._algorithm = algorithm
        self._agent = agent
        self._target = target
        self._optimizer = optimizer
        self._device = next(agent.parameters()).device
        capture = config.learner.cuda_graphs
        self._gradient = CapturedCall(
            self._loss_and_gradient, self._device, capture=capture, field=_FIELD
        )
        self._step = CapturedCall(optimizer.step, self._device, capture=capture, field=_FIELD)
        self._unroll: Unroll | None = None
        self._checked = False

    def load(self, unroll: Unroll) -> None:
        """Brings a batch's unrolls, copied for this update alone, to where they are learned from.

        For graphs the first batch's memory stays, and later ones are copied into it.
        """
        if self._gradient.captures and self._unroll is not None:
            overwrite(self._unroll, unroll)
        else:
            self._unroll = move(unroll, self._device)

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
        found = self._gradient()
        # All values in one transfer from the device.
        scalars = dict(zip(found.names, found.values.tolist(), strict=True))
        return UpdateResult(scalars, found.priorities)

    def step(self, learning_rate: float) -> None:
        """Changes the weights by the gradient of the last `backward`."""
        set_learning_rate(self._optimizer, learning_rate)
        self._step()
        self.discard()

    def discard(self) -> None:
        """Forgets the unrolls that were loaded, and their gradient."""
        if not self._gradient.captures:
            # So that the next batch can have this one's memory.
            self._unroll = None

    def _loss_and_gradient(self) -> _DeviceResult:
        unroll = self.unroll
        result = self._algorithm.loss(self._agent, self._target, unroll, self._config.algorithm)
        if not self._checked:
            check_result(
                result, self._config.algorithm_name,
                batch=len(unroll.importance), device=self._device,
            )  # fmt: skip
            self._checked = True
        # The optimizer's graph reads gradients where they were when it was captured.
        self._optimizer.zero_grad(set_to_none=not self._gradient.captures)
        result.loss.backward()  # type: ignore[no-untyped-call]
        limit = self._config.optimizer.clip_norm or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(self._agent.parameters(), limit)
        acted = unroll.policy_versions[unroll.burn_in : -1]  # [T, B] int64
        scalars = {
            "loss": result.loss.detach(),
            "grad_norm": grad_norm,
            "policy_version_mean": acted.float().mean(),
            **result.metrics,
        }
        values = torch.stack([value.float() for value in scalars.values()])
        return _DeviceResult(tuple(scalars), values, result.priorities)
