"""Checkpoints: written whole or not at all, checked before they are believed, free of pickle.

A checkpoint is a folder `checkpoints/frames-NNN-updates-NNN` with `state.safetensors` (every
tensor), `state.json` (everything else) and `manifest.json` (their SHA-256), and, where asked for, a
folder `replay`. It is written under another name and renamed last, so a folder of that name is
complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"
REPLAY = "replay"


class CheckpointError(Exception):
    """No checkpoint can be loaded; the text says from where and why."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tensors: By name, on the CPU.
        state: Counters and settings, as JSON has them.
        path: Where it was loaded from.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path | None = None


def save(
    folder: Path,
    name: str,
    checkpoint: Checkpoint,
    *,
    keep: int,
    save_replay: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `folder/name` durably, then deletes all but the `keep` newest; returns its path.

    `save_replay` is called with the path of a folder to be made there.
    """
    final, temporary = folder / name, folder / f".{name}.tmp"
    if final.exists() and _is_whole(final):
        return final
    # A kill while saving leaves its unfinished folder behind.
    for stale in (final, *folder.glob(".frames-*.tmp")):
        shutil.rmtree(stale, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {key: t.detach().cpu().contiguous().clone() for key, t in checkpoint.tensors.items()}
    save_file(tensors, temporary / TENSORS)
    (temporary / STATE).write_text(json.dumps(checkpoint.state, indent=1))
    if save_replay is not None:
        save_replay(temporary / REPLAY)
    digests = {
        str(path.relative_to(temporary)): _digest(path)
        for path in sorted(temporary.rglob("*"))
        if path.is_file()
    }
    (temporary / MANIFEST).write_text(json.dumps(digests, indent=1))
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)
    os.rename(temporary, final)
    _sync(folder)
    others = [other for other in names(folder) if other != name]
    for old in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(folder / old, ignore_errors=True)
    return final


def name_of(env_frames: int, learner_steps: int) -> str:
    """The name of the checkpoint at this point of a run; later ones sort after it."""
    return f"frames-{env_frames:014d}-updates-{learner_steps:010d}"


def names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a folder, oldest first."""
    return sorted(path.name for path in folder.glob("frames-*") if path.is_dir())


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint; raises CheckpointError where any of its bytes is not as written."""
    try:
        for part in (TENSORS, STATE):
            _check(path, part)
        state = json.loads((path / STATE).read_text())
        return Checkpoint(load_file(path / TENSORS), state, path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from None


def find_replay(path: Path) -> Path | None:
    """The replay's folder in a checkpoint; None where it has none.

    Raises:
        CheckpointError: where any of its bytes is not as written.
    """
    try:
        parts = [part for part in _read_manifest(path) if part.startswith(f"{REPLAY}/")]
        for part in parts:
            _check(path, part)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path / REPLAY}: not readable ({error})") from None
    return path / REPLAY if parts else None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there are none at all.

    Raises:
        CheckpointError: where there are checkpoints and none of them is whole.
    """
    errors = []
    for name in reversed(names(folder)):
        try:
            return load(folder / name)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
            errors.append(str(error))
    if errors:
        raise CheckpointError("no checkpoint is whole: " + "; ".join(errors))
    return None


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
    try:
        module.load_state_dict(kept)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint is of another network: {reason}") from None


def unpack_optimizer(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Loads what `pack` kept of the optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _read_manifest(path: Path) -> dict[str, str]:
    digests: dict[str, str] = json.loads((path / MANIFEST).read_text())
    return digests


def _check(path: Path, part: str) -> None:
    """Raises CheckpointError where a part of the checkpoint is not as it was written."""
    if _read_manifest(path)[part] != _digest(path / part):
        raise CheckpointError(f"{path / part}: not as it was written (SHA-256 differs)")


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
