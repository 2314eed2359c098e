"""What was saved comes back exactly, and nothing is deleted too soon; faults: test_faults.py."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seed.learner import checkpoint
from seed.learner.checkpoint import MANIFEST, REPLAY, STATE, TENSORS, Checkpoint, CheckpointError
from tests.seed.checkpoints import (
    flip,
    loaded_frames,
    name_of,
    sample,
    save,
    save_with_replay,
    state_of,
)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 2).t(),
        # Shares memory.
        "part": (shared := torch.randn(4))[1:3], "all": shared, "same": shared,
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(2).half(),
        "empty": torch.zeros(0, 3),
    }
    state = state_of(1, x=[1.5])
    path = checkpoint.save(tmp_path / "c", name_of(1), Checkpoint(tensors, state), keep=1)
    assert path == tmp_path / "c" / name_of(1)
    assert list(path.parent.iterdir()) == [path]
    assert sorted(part.name for part in path.iterdir()) == sorted([TENSORS, STATE, MANIFEST])
    loaded = checkpoint.load(path)
    assert loaded.state == state
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_what_was_saved_stays_where_the_others_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> list[str]:
        raise CheckpointError("cannot be read")

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("seed.learner.checkpoint.writing.names", refuse)
        save(tmp_path, 2, keep=1)
    assert "no old checkpoint is deleted: cannot be read" in caplog.text
    assert loaded_frames(tmp_path) == 2
    assert len(checkpoint.names(tmp_path)) == 2


def test_keeps_the_newest(tmp_path: Path) -> None:
    for number in (1, 20, 300, 4000):
        save(tmp_path, number, keep=2)
    assert checkpoint.names(tmp_path) == [name_of(n) for n in (300, 4000)]
    assert loaded_frames(tmp_path) == 4000


# A run that goes on from an older checkpoint has fewer frames than those that lie there.
def test_never_deletes_what_it_has_just_written(tmp_path: Path) -> None:
    for number in (70, 80, 90):
        save(tmp_path, number)
    assert save(tmp_path, 60).exists()


# Those that were too damaged to go on from must not push out the one that the run went on from.
def test_damaged_newer_ones_do_not_count(tmp_path: Path) -> None:
    for number in (10, 70, 80, 90):
        path = save(tmp_path, number, keep=4)
        if number >= 80:
            flip(path / TENSORS)
    assert loaded_frames(tmp_path) == 70
    flip(save(tmp_path, 75, keep=2) / TENSORS)
    assert loaded_frames(tmp_path) == 70
    assert checkpoint.names(tmp_path) == [name_of(n) for n in (70, 75, 80, 90)]


def test_sweeps_up_what_killed_saves_have_left(tmp_path: Path) -> None:
    for name in (f".{name_of(1)}.tmp", f".{name_of(9)}.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / TENSORS).write_bytes(b"torn")
    other = tmp_path / "notes.tmp"
    other.touch()
    path = save(tmp_path, 2)
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


def test_a_replay_lies_in_its_checkpoint(tmp_path: Path) -> None:
    path = save_with_replay(tmp_path, 1)
    assert checkpoint.find_replay(path) == path / REPLAY
    assert (path / REPLAY / "rows.npy").read_bytes() == bytes(range(200))
    manifest = json.loads((path / MANIFEST).read_text())
    assert sorted(manifest) == [f"{REPLAY}/numbers.json", f"{REPLAY}/rows.npy", STATE, TENSORS]
    assert loaded_frames(tmp_path) == 1


def test_every_piece_of_a_replay_is_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = bytes(range(250)) * 40

    def save_large(folder: Path, sign: Callable[[], None]) -> None:
        folder.mkdir()
        (folder / "rows.npy").write_bytes(rows)

    signs: list[None] = []
    monkeypatch.setattr("seed.process.plain_files._PIECE_BYTES", 9)
    path = checkpoint.save(
        tmp_path, name_of(1), sample(1), keep=1, save_replay=save_large,
        sign=lambda: signs.append(None),
    )  # fmt: skip
    assert len(signs) > len(rows) / 9
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest[f"{REPLAY}/rows.npy"] == hashlib.sha256(rows).hexdigest()


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    rename, sync = os.rename, os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def check_and_rename(source: Path, target: Path) -> None:
        parts = {path.name for path in source.rglob("*")} | {source.name}
        assert parts == set(synced)
        rename(source, target)

    monkeypatch.setattr("os.fsync", note)
    monkeypatch.setattr("os.rename", check_and_rename)
    save_with_replay(tmp_path, 1)
    assert synced[-1] == tmp_path.name
    assert {"rows.npy", REPLAY, TENSORS} < set(synced)
