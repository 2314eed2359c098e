"""Whatever has happened to the newest checkpoint, it is not believed, and the one before is."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seed.learner import checkpoint
from seed.learner.checkpoint import MANIFEST, REPLAY, STATE, TENSORS, CheckpointError
from tests.seed.checkpoints import flip, loaded_frames, sample, save, save_with_replay

Damage = Callable[[Path], Any]


def flipped(part: str, position: int, path: Path) -> None:
    flip(path / part, position)


def with_text(part: str, text: str, path: Path) -> None:
    (path / part).write_text(text)


def with_state(content: bytes, path: Path) -> None:
    """Another state, and the digest of that one."""
    (path / STATE).write_bytes(content)
    digests = json.loads((path / MANIFEST).read_text())
    digests[STATE] = hashlib.sha256(content).hexdigest()
    (path / MANIFEST).write_text(json.dumps(digests))


def truncated(part: str, path: Path) -> None:
    os.truncate(path / part, 5)


def instead(part: str, make: Damage, path: Path) -> None:
    """Something else in the place of a file."""
    (path / part).unlink()
    make(path / part)


KINDS: dict[str, Damage] = {
    "pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero"),
}  # fmt: skip
STATES = (
    b"", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 900 + b"1",
    b'{"env_frames": ' + b"9" * 5_000 + b"}",
)  # fmt: skip
NO_COUNTS: tuple[Any, ...] = (None, -1, "1", True, [], 10**30, math.nan, math.inf)


def damages() -> Iterator[tuple[str, Damage, str]]:
    """What happens to a checkpoint, and what is said of it."""
    for part in (TENSORS, STATE, MANIFEST):
        for position in (0, 20, -1):
            yield f"flipped {part} {position}", partial(flipped, part, position), ""
        yield f"no {part}", partial(instead, part, lambda path: None), "No such file"
        yield f"truncated {part}", partial(truncated, part), ""
        for kind, make in KINDS.items():
            yield f"{kind} {part}", partial(instead, part, make), "Not a plain file"
    for text in ("[]", "{}", "null", "1", '{"state.json": 5}'):
        yield f"manifest {text}", partial(with_text, MANIFEST, text), ""
    for content in STATES:
        yield f"state {content[:9]!r}", partial(with_state, content), ""
    for name in ("env_frames", "env_steps", "learner_steps", "time_s"):
        for value in NO_COUNTS:
            state = json.dumps(sample(2).state | {name: value}).encode()
            reason = rf"state.json: of another form \({name} = "
            yield f"{name} {value}", partial(with_state, state), reason


@pytest.mark.parametrize(
    ("damage", "reason"), [pytest.param(*rest, id=name) for name, *rest in damages()]
)
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: Damage, reason: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest)
    with pytest.raises(CheckpointError, match=rf"frames-00000000000002.*{reason}"):
        checkpoint.load(newest)
    assert loaded_frames(tmp_path) == 1


def test_says_of_every_checkpoint_why_none_can_be_loaded(tmp_path: Path) -> None:
    flip(save(tmp_path, 1) / STATE)
    (save(tmp_path, 2) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"2-updates-0+: .*No such file.*; .*state.json: not"):
        checkpoint.load_newest(tmp_path)


def test_there_may_be_no_checkpoint_yet_and_no_replay(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nothing") is None
    assert checkpoint.names(tmp_path / "nothing") == []
    assert checkpoint.find_replay(save(tmp_path, 1)) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        *[(lambda rows, i=i: flip(rows, i), r"rows.npy: not as it was written") for i in (0, 99)],
        (lambda rows: rows.unlink(), r": not readable \(.*rows.npy"),
    ],
)
def test_a_damaged_replay_is_not_believed_but_the_rest_is(
    tmp_path: Path, damage: Damage, reason: str
) -> None:
    path = save_with_replay(tmp_path, 1)
    damage(path / REPLAY / "rows.npy")
    with pytest.raises(CheckpointError, match=rf"{REPLAY}.*{reason}"):
        checkpoint.find_replay(path)
    assert loaded_frames(tmp_path) == 1


def test_files_of_others_in_a_checkpoint_do_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "notes").write_text("good one")
    (path / "folder").mkdir()
    assert loaded_frames(tmp_path) == 1
