"""Dataclasses and dictionaries of tensors, moved to a device or copied into others in place."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


def move(value: Any, device: torch.device) -> Any:
    """The same dataclass or dictionary with its tensors on the device, and all else as it is."""
    if isinstance(value, Tensor):
        # Towards the CPU nothing would wait for the copy before it is read.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {f.name: move(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    return type(value)(**fields)


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
