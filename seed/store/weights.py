"""How weights go from the learner to inference: one slot, always the newest, never half of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Weights(NamedTuple):
    """A copy of a module's parameters and buffers.

    Attributes:
        version: Updates that the learner had made.
        tensors: In the order of `module_tensors`.
    """

    version: int
    tensors: list[Tensor]


class WeightSlot:
    """Holds the newest published weights until inference takes them.

    Attributes:
        rounds: Batches that the learner is done with; in lock-step inference goes on after each.
        on_round_end: Called by the learner's thread after each.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.on_round_end: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._weights: Weights | None = None

    def publish(self, version: int, module: nn.Module) -> None:
        """Copies the module's tensors into the slot; called by the learner's thread."""
        weights = Weights(version, [tensor.detach().clone() for tensor in module_tensors(module)])
        if weights.tensors and weights.tensors[0].is_cuda:
            # The taker works on another stream, which must find the copies complete.
            torch.cuda.current_stream(weights.tensors[0].device).synchronize()
        with self._lock:
            self._weights = weights

    def end_round(self) -> None:
        """The learner is done with a batch, and has published what it was to publish."""
        self.rounds += 1
        self.on_round_end()

    def take(self) -> Weights | None:
        """The newest weights, once; None where there are none since the last call."""
        with self._lock:
            weights, self._weights = self._weights, None
        return weights


def module_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers in a fixed order."""
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Copies tensors in the order of `module_tensors` into the module."""
    for destination, source in zip(module_tensors(module), tensors, strict=True):
        # Towards the CPU nothing would wait for the copy before it is read.
        destination.copy_(source, non_blocking=destination.is_cuda)
