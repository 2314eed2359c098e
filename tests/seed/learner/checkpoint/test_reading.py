"""Whatever has happened to the newest checkpoint, it is not believed, and the one before is."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seed.learner import checkpoint
from seed.learner.checkpoint import MANIFEST, REPLAY, STATE, TENSORS, CheckpointError
from tests.seed.checkpoints import flip, loaded_frames, sample, save, save_with_replay

Damage = Callable[[Path], Any]


def with_state(path: Path, content: bytes) -> None:
    """Another state, and the digest of that one."""
    (path / STATE).write_bytes(content)
    digests = json.loads((path / MANIFEST).read_text())
    digests[STATE] = hashlib.sha256(content).hexdigest()
    (path / MANIFEST).write_text(json.dumps(digests))


def instead(part: str, make: Damage) -> Damage:
    """Something else in the place of a file."""

    def damage(path: Path) -> None:
        (path / part).unlink()
        make(path / part)

    return damage


def damages() -> Iterator[tuple[str, Damage, str]]:
    """What happens to a checkpoint, and what is said of it."""
    for part in (TENSORS, STATE, MANIFEST):
        for position in (0, 20, -1):
            yield f"flipped {part} {position}", lambda c, p=part, i=position: flip(c / p, i), ""
        yield f"no {part}", instead(part, lambda path: None), "No such file"
        yield f"truncated {part}", lambda c, p=part: os.truncate(c / p, 5), ""
        for kind, make in {
            "pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero"),
        }.items():  # fmt: skip
            yield f"{kind} {part}", instead(part, make), "Not a plain file"
    for text in ("[]", "{}", "null", "1", '{"state.json": 5}'):
        yield f"manifest {text}", lambda c, t=text: (c / MANIFEST).write_text(t), ""
    for content in (
        b"", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 900 + b"1",
        b'{"env_frames": ' + b"9" * 5_000 + b"}",
    ):  # fmt: skip
        yield f"state {content[:9]!r}", lambda c, b=content: with_state(c, b), ""
    for name in ("env_frames", "env_steps", "learner_steps", "time_s"):
        for value in (None, -1, "1", True, [], 10**30, math.nan, math.inf):
            state = json.dumps(sample(2).state | {name: value}).encode()
            reason = rf"state.json: of another form \({name} = "
            yield f"{name} {value}", lambda c, s=state: with_state(c, s), reason


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
