"""The slot between learner and inference: newest weights, whole, once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seed.store.weights import WeightSlot, load_tensors, module_tensors


def make_module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def copies(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in module_tensors(module)]


def change(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in module_tensors(module):
            tensor.add_(1)


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_an_empty_slot_gives_nothing() -> None:
    assert WeightSlot().take() is None


def test_weights_are_taken_once() -> None:
    slot, module = WeightSlot(), make_module()
    slot.publish(3, module)
    weights = slot.take()
    assert weights is not None
    assert weights.version == 3
    assert equal(weights.tensors, module_tensors(module))
    assert slot.take() is None


def test_published_weights_do_not_change_with_the_module() -> None:
    slot, module = WeightSlot(), make_module()
    before = copies(module)
    slot.publish(1, module)
    change(module)
    weights = slot.take()
    assert weights is not None
    assert equal(weights.tensors, before)
    assert not any(tensor.requires_grad for tensor in weights.tensors)


def test_the_newest_weights_win() -> None:
    slot, module = WeightSlot(), make_module()
    slot.publish(1, module)
    change(module)
    slot.publish(2, module)
    weights = slot.take()
    assert weights is not None
    assert weights.version == 2
    assert equal(weights.tensors, module_tensors(module))


def test_loading_copies_parameters_and_buffers() -> None:
    source, destination = make_module(), make_module()
    change(source)
    row_index = [tensor.data_ptr() for tensor in module_tensors(destination)]
    load_tensors(destination, copies(source))
    assert equal(module_tensors(destination), module_tensors(source))
    assert [tensor.data_ptr() for tensor in module_tensors(destination)] == row_index
    change(source)
    assert not equal(module_tensors(destination), module_tensors(source))
    inputs = torch.randn(4, 3)
    load_tensors(destination, copies(source))
    assert torch.equal(source.eval()(inputs), destination.eval()(inputs))


def test_copies_to_the_cpu_are_waited_for() -> None:
    waits = []

    class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func is torch.ops.aten.copy_.default:
                waits.append(len(args) == 2 or not args[2])
            return func(*args, **(kwargs or {}))

    source, destination = make_module(), make_module()
    with Copies():  # type: ignore[no-untyped-call]
        load_tensors(destination, module_tensors(source))
    assert waits == [True] * len(module_tensors(source))


def test_loading_the_weights_of_another_module_fails() -> None:
    with pytest.raises(ValueError, match="zip"):
        load_tensors(make_module(), copies(nn.Linear(3, 2)))
