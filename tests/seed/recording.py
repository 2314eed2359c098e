"""What a GPU does with a captured function, on the CPU: the same operations on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seed.config.schema import ConfigError
from seed.device.graphs import CaptureLock

T = TypeVar("T")


class Recorder(TorchDispatchMode):
    """Notes every operation with the tensors and numbers that it was given, and its results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Any, dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, tensors_of(result)))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Does the same again: none of the Python runs that led to it."""
        for func, args, kwargs, results in self._calls:
            again = tensors_of(func(*args, **kwargs))
            for old, new in zip(results, again, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def record(function: Callable[[], T], device: torch.device, field: str) -> Callable[[], T]:
    """Stands in for `seed.device.graphs._capture`; the first replay stands for the recording."""
    recorder = Recorder()
    try:
        with recorder:
            result = function()
    except RuntimeError as error:
        raise ConfigError(f"{field} = true: {error}") from error
    replays = 0

    def replay() -> T:
        nonlocal replays
        if replays > 0:
            recorder.replay()
        replays += 1
        return result

    return replay


def record_on_cpu(patch: pytest.MonkeyPatch) -> None:
    """Lets graphs capture on the CPU."""
    for module in ("device.graphs", "learner.loop"):
        patch.setattr(f"seed.{module}.can_capture", lambda device: True)
    patch.setattr("seed.device.graphs._capture", record)
    # One that failed is closed for good.
    patch.setattr("seed.device.graphs.capture_lock", CaptureLock())
