"""Writes checkpoints whole or not at all, reads them back, and deletes old ones only then."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save as save_tensors

from seed.learner.checkpoint.naming import UNFINISHED, CheckpointError, is_folder, names
from seed.learner.checkpoint.reading import (
    MANIFEST,
    REPLAY,
    STATE,
    TENSORS,
    Checkpoint,
    check,
    is_whole,
)
from seed.process.exit_codes import EXIT_FAILED, CommandError
from seed.process.plain_files import digest, sync, write_file

log = logging.getLogger(__name__)

# Writes a replay into a folder that it makes; calls its second argument again and again meanwhile.
SaveReplay = Callable[[Path, Callable[[], None]], None]


class SaveFailed(CommandError):
    """A checkpoint could not be written; those from before are as they were."""

    exit_code = EXIT_FAILED


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
        if final.exists() and is_whole(final):
            return final
        _sweep(folder)
        if is_folder(final):
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
        # Newer ones could not be loaded when the run began: they must not push out one that could.
        older = [
            other for other in names(folder) if other < name and is_folder(folder / other)
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
        check(folder, part, sign)


def _delete(path: Path) -> None:
    """Takes a checkpoint away; one that is half deleted has no checkpoint's name any more."""
    condemned = path.with_name(f".{path.name}.old.tmp")
    os.rename(path, condemned)
    shutil.rmtree(condemned, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Deletes what saves and deletions that were interrupted have left."""
    for entry in folder.glob(".frames-*.tmp"):
        if UNFINISHED.fullmatch(entry.name) and is_folder(entry):
            shutil.rmtree(entry, ignore_errors=True)
