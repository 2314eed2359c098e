"""Dataclasses and dictionaries of tensors, moved to a device or copied into others in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def move(value: Any, device: torch.device) -> Any:
    """The same dataclass or dictionary with its tensors on the device, and all else as it is."""
    # Towards the CPU nothing would wait for the copy before it is read.
    return map_tensors(value, lambda part: part.to(device, non_blocking=device.type == "cuda"))


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same dataclass or dictionary with what a function makes of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return type(value)(**{name: map_tensors(part, function) for name, part in parts.items()})


def overwrite(destination: Any, source: Any) -> None:
    """Copies the tensors of a dataclass or dictionary into those of another of the same form.

    Raises:
        ValueError: where there are more or fewer of them, or of other shapes.
    """
    for old, new in zip(tensors_of(destination), tensors_of(source), strict=True):
        if old.shape != new.shape:
            raise ValueError(f"a tensor of shape {list(new.shape)}, expected {list(old.shape)}")
        old.copy_(new, non_blocking=old.device.type == "cuda")


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of a dataclass or dictionary, in the order of its fields."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        parts = list(value.values())
    elif dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return []
    return [tensor for part in parts for tensor in tensors_of(part)]
