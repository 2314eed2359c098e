"""Loads checkpoints, and believes none that differs in a byte from what a save has written.

Nor one whose bytes are as written, but whose counters no run can go on from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seed.learner.checkpoint.naming import CheckpointError, name_of, names, warn_of_others
from seed.process.plain_files import digest, read_plain
from seed.process.quoting import quote, shorten

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"
REPLAY = "replay"

# State and manifest are a few kilobytes.
_MOST_TEXT_BYTES = 2**26

# What reading files of any content raises; MemoryError and RecursionError by odd JSON.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, MemoryError, RecursionError, SafetensorError,
)  # fmt: skip

# Names of checkpoints have so many digits, and no run comes near.
_MOST_FRAMES, _MOST_UPDATES = 10**14 - 1, 10**10 - 1
_LONGEST_TIME_S = 1e12
_COUNTS = {"env_frames": _MOST_FRAMES, "env_steps": _MOST_FRAMES, "learner_steps": _MOST_UPDATES}
_OPTIONAL: dict[str, type] = {
    "optimizer": str, "environment": str, "version": str, "config": dict,
}  # fmt: skip
_LONGEST_TEXT = 4096
_DEEPEST = 32


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


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint; raises CheckpointError where it is not as a save has written it."""
    try:
        for part in (TENSORS, STATE):
            check(path, part)
        state = json.loads(read_plain(path / STATE, _MOST_TEXT_BYTES))
        fault = _find_fault(state)
        if fault:
            raise CheckpointError(f"{path / STATE}: of another form ({fault})")
        return Checkpoint(load_file(path / TENSORS), state, path)
    except _UNREADABLE as error:
        said = shorten(str(error))
        raise CheckpointError(f"{path}: not a readable checkpoint ({said})") from None


def is_whole(path: Path) -> bool:
    """Whether what lies there can be loaded."""
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def find_replay(path: Path) -> Path | None:
    """The replay's folder in a checkpoint; None where it has none.

    Raises:
        CheckpointError: where any of its bytes is not as written.
    """
    try:
        parts = [part for part in _read_manifest(path) if part.startswith(f"{REPLAY}/")]
        for part in parts:
            check(path, part)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path / REPLAY}: not readable ({shorten(str(error))})") from None
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


def _read_manifest(path: Path) -> dict[str, str]:
    digests = json.loads(read_plain(path / MANIFEST, _MOST_TEXT_BYTES))
    if not isinstance(digests, dict):
        raise CheckpointError(f"{path / MANIFEST}: of another form (expected an object)")
    return digests


def check(path: Path, part: str, sign: Callable[[], None] = lambda: None) -> None:
    """Raises CheckpointError where a part of the checkpoint is not as it was written."""
    if _read_manifest(path)[part] != digest(path / part, sign):
        raise CheckpointError(f"{path / part}: not as it was written (SHA-256 differs)")


def _find_fault(state: Any) -> str:
    """What is wrong with the state of a checkpoint, in a few words; empty where nothing is.

    Everything that a run needs of it has its type and a possible value then. What else there is
    may be of a later version, and is only looked at for its depth.
    """
    if not isinstance(state, dict):
        return f"state: expected an object, found {type(state).__name__}"
    if _depth_of(state) > _DEEPEST:
        return f"state: nested more than {_DEEPEST} deep"
    for name, most in _COUNTS.items():
        count = state.get(name)
        if type(count) is not int or not 0 <= count <= most:
            return f"{name} = {quote(count)}: expected an integer from 0 to {most}"
    time_s = state.get("time_s")
    if not _is_time(time_s):
        return f"time_s = {quote(time_s)}: expected seconds from 0 to {_LONGEST_TIME_S:g}"
    for name, kind in _OPTIONAL.items():
        value = state.get(name)
        # Of the text, messages say it as it is.
        if value is not None and not (isinstance(value, kind) and _is_sayable(value)):
            return f"{name} = {quote(value)}: expected {_said(kind)}"
    return ""


def _is_time(time_s: Any) -> bool:
    # Integers are compared exactly, however large; NaN is never in range.
    return type(time_s) in (int, float) and 0 <= time_s <= _LONGEST_TIME_S


def _is_sayable(value: Any) -> bool:
    return not isinstance(value, str) or (len(value) <= _LONGEST_TEXT and value.isprintable())


def _said(kind: type) -> str:
    return "a line of text" if kind is str else "an object"


def _depth_of(value: Any) -> int:
    """How deep objects and lists are nested, without any recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            inner for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
        ]  # fmt: skip
    return depth
