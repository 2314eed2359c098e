"""Checkpoints: written whole or not at all, checked before they are believed, free of pickle.

A checkpoint is a folder `checkpoints/frames-NNN-updates-NNN` with `state.safetensors` (every
tensor), `state.json` (everything else) and `manifest.json` (their SHA-256), and, where asked for, a
folder `replay`. It is written under another name and renamed last, so a folder of that name is
complete. Names sort by age: the last one is the newest, and no link has to say so. Only names of
exactly this form count; whatever else lies there is left alone, and named in a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from seed.learner.state_form import find_fault
from seed.process.exit_codes import EXIT_FAILED, EXIT_NO_CHECKPOINT, CommandError
from seed.process.plain_files import digest, read_plain, sync, write_file

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"
REPLAY = "replay"

# State and manifest are a few kilobytes.
_MOST_TEXT_BYTES = 2**26
_NAME = re.compile(r"frames-[0-9]{14}-updates-[0-9]{10}")
_UNFINISHED = re.compile(rf"\.{_NAME.pattern}(\.old)?\.tmp")
_OPTIMIZER_KEY = re.compile(r"optimizer\.([0-9]{1,9})\.(.+)")
_ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}
# Of what else lies beside checkpoints, so many are named.
_MOST_NAMED = 5

# Writes a replay into a folder that it makes; calls its second argument again and again meanwhile.
SaveReplay = Callable[[Path, Callable[[], None]], None]


class CheckpointError(CommandError):
    """No checkpoint can be loaded; the text says from where and why."""

    exit_code = EXIT_NO_CHECKPOINT


# What reading files of any content raises; MemoryError and RecursionError by odd JSON.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, MemoryError, RecursionError, SafetensorError,
)  # fmt: skip


class SaveFailed(CommandError):
    """A checkpoint could not be written; those from before are as they were."""

    exit_code = EXIT_FAILED


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
    save_replay: SaveReplay | None = None,
    sign: Callable[[], None] = lambda: None,
) -> Path:
    """Writes `folder/name` durably and verified; returns its path.

    Only then older ones are deleted, all but `keep` - 1: while it is written there is room needed
    for one more, and whatever fails, those that were there stay. What was written is read back, and
    is only believed if it is what was meant to be written.

    Args:
        folder: Of all checkpoints of the run.
        name: From `name_of`.
        checkpoint: What to keep.
        keep: Checkpoints kept, this one included.
        save_replay: Writes the replay into the folder that it is given, which it makes.
        sign: Called again and again meanwhile, at least between any two system calls that may
            take long.

    Raises:
        SaveFailed: where it could not be written or read back; nothing of it is left.
    """
    final, temporary = folder / name, folder / f".{name}.tmp"
    try:
        if final.exists() and _is_whole(final):
            return final
        _sweep(folder)
        if _is_folder(final):
            _delete(final)
        _write(temporary, checkpoint, save_replay, sign)
        os.rename(temporary, final)
        sync(folder)
    except (OSError, CheckpointError) as error:
        # Its room is wanted, by the next attempt if by nobody else.
        shutil.rmtree(temporary, ignore_errors=True)
        raise SaveFailed(f"{final}: the checkpoint could not be written ({error})") from error
    _delete_old(folder, name, keep)
    return final


def _delete_old(folder: Path, name: str, keep: int) -> None:
    """Deletes those before `name` but the newest `keep` - 1; what cannot be deleted stays."""
    try:
        # Newer ones could not be loaded when the run began, and stand for none that could.
        older = [
            other for other in names(folder) if other < name and _is_folder(folder / other)
        ]
    except CheckpointError as error:
        log.warning("no old checkpoint is deleted: %s", error)
        return
    for old in older[: max(0, len(older) - (keep - 1))]:
        try:
            _delete(folder / old)
        except OSError as error:
            log.warning("%s: an old checkpoint could not be deleted (%s)", folder / old, error)


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    save_replay: SaveReplay | None,
    sign: Callable[[], None],
) -> None:
    """Writes all of a checkpoint into a new folder, on the disk; raises OSError, CheckpointError.

    The digest of tensors and state is of what was meant, and compared with what was written. A
    replay is too large to be held in memory: its digest is of the files.
    """
    folder.mkdir(parents=True)
    tensors = {key: t.detach().cpu().contiguous() for key, t in checkpoint.tensors.items()}
    contents = {
        TENSORS: save_tensors({key: tensor.clone() for key, tensor in tensors.items()}),
        STATE: json.dumps(checkpoint.state, indent=1).encode(),
    }
    digests = {part: hashlib.sha256(content).hexdigest() for part, content in contents.items()}
    if save_replay is not None:
        save_replay(folder / REPLAY, sign)
        for path in sorted((folder / REPLAY).rglob("*")):
            digests[str(path.relative_to(folder))] = digest(path, sign)
            sync(path)
            sign()
        sync(folder / REPLAY)
    contents[MANIFEST] = json.dumps(digests, indent=1).encode()
    for part, content in contents.items():
        write_file(folder / part, content)
        sign()
    sync(folder)
    if (folder / MANIFEST).read_bytes() != contents[MANIFEST]:
        raise CheckpointError(f"{folder / MANIFEST}: not as it was written")
    for part in (TENSORS, STATE):
        _check(folder, part, sign)


def _delete(path: Path) -> None:
    """Takes a checkpoint away; one that is half deleted has no checkpoint's name any more."""
    condemned = path.with_name(f".{path.name}.old.tmp")
    os.rename(path, condemned)
    shutil.rmtree(condemned, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Deletes what saves and deletions that were interrupted have left."""
    for entry in folder.glob(".frames-*.tmp"):
        if _UNFINISHED.fullmatch(entry.name) and _is_folder(entry):
            shutil.rmtree(entry, ignore_errors=True)


def name_of(env_frames: int, learner_steps: int) -> str:
    """The name of the checkpoint at this point of a run; later ones sort after it."""
    return f"frames-{env_frames:014d}-updates-{learner_steps:010d}"


def names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a folder, oldest first; none where it is not there.

    Links to folders are among them: whoever moves a checkpoint may leave one.

    Raises:
        CheckpointError: where the folder cannot be read, or is none, and so may hold a run.
    """
    return sorted(
        name for name in _entries(folder)
        if _NAME.fullmatch(name) and os.path.isdir(folder / name)
    )  # fmt: skip


def warn_of_others(folder: Path) -> None:
    """Names, in one line, what lies beside the checkpoints and is none; nobody touches it."""
    ours = set(names(folder))
    others = sorted(
        name for name in _entries(folder) if name not in ours and not _UNFINISHED.fullmatch(name)
    )
    if others:
        named = ", ".join(ascii(name) for name in others[:_MOST_NAMED])
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        log.warning("%s: not taken for checkpoints, and left alone: %s%s", folder, named, more)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder and no link to one: saves make no links, and delete none."""
    return path.is_dir() and not path.is_symlink()


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        # A link to a disk that is missing, or what somebody has put into its place.
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise CheckpointError(
                f"{folder}: expected a folder, found a file, or a link to nothing; make it a "
                "folder again, move it away to start anew, or choose another run_dir"
            ) from None
        return []
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read ({error.strerror}), and may hold checkpoints; make it "
            "readable, or choose another run_dir"
        ) from None


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint; raises CheckpointError where it is not as a save has written it."""
    try:
        for part in (TENSORS, STATE):
            _check(path, part)
        state = json.loads(read_plain(path / STATE, _MOST_TEXT_BYTES))
        fault = find_fault(state)
        if fault:
            raise CheckpointError(f"{path / STATE}: of another form ({fault})")
        return Checkpoint(load_file(path / TENSORS), state, path)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({_say(error)})") from None


def find_replay(path: Path) -> Path | None:
    """The replay's folder in a checkpoint; None where it has none.

    Raises:
        CheckpointError: where any of its bytes is not as written.
    """
    try:
        parts = [part for part in _read_manifest(path) if part.startswith(f"{REPLAY}/")]
        for part in parts:
            _check(path, part)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path / REPLAY}: not readable ({_say(error)})") from None
    return path / REPLAY if parts else None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there are none at all.

    Raises:
        CheckpointError: where there are checkpoints and none of them is whole, or where it cannot
            be seen whether there are any.
    """
    warn_of_others(folder)
    errors = []
    for name in reversed(names(folder)):
        try:
            return _load_named(folder / name)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
            errors.append(str(error))
    if errors:
        raise CheckpointError("no checkpoint is whole: " + "; ".join(errors))
    return None


def _load_named(path: Path) -> Checkpoint:
    """Loads a checkpoint whose name is to be what it holds: else its age would be a lie."""
    loaded = load(path)
    named = name_of(loaded.state["env_frames"], loaded.state["learner_steps"])
    if path.name != named:
        raise CheckpointError(f"{path}: holds what is to be named {named}; it has been renamed")
    return loaded


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


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


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


def _of_another_optimizer(why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint is of another optimizer or network: {why}")


def _read_manifest(path: Path) -> dict[str, str]:
    digests = json.loads(read_plain(path / MANIFEST, _MOST_TEXT_BYTES))
    if not isinstance(digests, dict):
        raise CheckpointError(f"{path / MANIFEST}: of another form (expected an object)")
    return digests


def _check(path: Path, part: str, sign: Callable[[], None] = lambda: None) -> None:
    """Raises CheckpointError where a part of the checkpoint is not as it was written."""
    if _read_manifest(path)[part] != digest(path / part, sign):
        raise CheckpointError(f"{path / part}: not as it was written (SHA-256 differs)")


def _say(error: Exception) -> str:
    """An error in one line, and not at any length: it may quote what it could not read."""
    line = " ".join(str(error).split())
    said = "".join(letter if letter.isprintable() else "?" for letter in line)
    return said if len(said) <= 300 else f"{said[:300]}..."


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except CheckpointError:
        return False
    return True
