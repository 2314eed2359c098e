"""Checkpoints: what was saved comes back exactly, and what was damaged is not believed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from seed.config.schema import OptimizerConfig
from seed.learner import checkpoint
from seed.learner.checkpoint import (
    MANIFEST,
    REPLAY,
    STATE,
    TENSORS,
    Checkpoint,
    CheckpointError,
    SaveFailed,
)
from seed.learner.optimizers import make_optimizer
from tests.seed.checkpoints import (
    loaded_frames,
    make_network,
    name_of,
    sample,
    save,
    state_of,
    update,
)

Kind = Literal["rmsprop_tf", "adam"]


def flip(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 2).t(),
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(2).half(),
        "empty": torch.zeros(0, 3),
    }
    state = state_of(1, x=[1.5])
    path = checkpoint.save(tmp_path / "c", name_of(1), Checkpoint(tensors, state), keep=1)
    assert path == tmp_path / "c" / name_of(1)
    loaded = checkpoint.load(path)
    assert loaded.state == state
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    shared = torch.randn(4)
    tensors = {"all": shared, "same": shared, "part": shared[1:3]}
    path = checkpoint.save(tmp_path, name_of(1), Checkpoint(tensors, state_of(1)), keep=1)
    assert torch.equal(checkpoint.load(path).tensors["part"], shared[1:3])


def test_there_may_be_no_checkpoint_yet(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nothing") is None
    assert checkpoint.names(tmp_path / "nothing") == []


# Else the run would begin anew, in the place of one that is there.
def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    folder.symlink_to(folder)
    with pytest.raises(CheckpointError, match=r"checkpoints: cannot be read \(Too many levels"):
        checkpoint.names(folder)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    save(tmp_path, 1)
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_no_folder_is_not_taken_for_an_empty_one(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "checkpoints"
    if what == "file":
        folder.touch()
    else:
        folder.symlink_to(tmp_path / "missing disk")
    with pytest.raises(CheckpointError, match=r"checkpoints: expected a folder, found a file, or"):
        checkpoint.names(folder)
    # What is wrong with the folder around it is for others to say.
    assert checkpoint.names(folder / "checkpoints") == []


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


def test_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert sorted(part.name for part in path.iterdir()) == sorted([TENSORS, STATE, MANIFEST])


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


# Two checkpoints without a frame between them, as at a stop right after the last one.
def test_the_newest_of_as_many_frames_has_the_most_updates(tmp_path: Path) -> None:
    for updates in (9, 10, 2):
        kept = Checkpoint({}, state_of(7, updates))
        checkpoint.save(tmp_path, checkpoint.name_of(7, updates), kept, keep=3)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state["learner_steps"] == 10


def test_sweeps_up_what_killed_saves_have_left(tmp_path: Path) -> None:
    for name in (f".{name_of(1)}.tmp", f".{name_of(9)}.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / TENSORS).write_bytes(b"torn")
    other = tmp_path / "notes.tmp"
    other.touch()
    path = save(tmp_path, 2)
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


# A damaged checkpoint of as many frames must not stand in the way of a whole one.
def test_writes_over_a_damaged_one_of_the_same_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / TENSORS)
    save(tmp_path, 2)
    assert loaded_frames(tmp_path) == 2


@pytest.mark.parametrize("part", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_byte_falls_back_to_the_one_before(
    tmp_path: Path, part: str, position: int
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    flip(newest / part, position)
    with pytest.raises(CheckpointError, match="frames-00000000000002"):
        checkpoint.load(newest)
    assert loaded_frames(tmp_path) == 1


@pytest.mark.parametrize("part", [TENSORS, STATE, MANIFEST])
def test_a_missing_file_falls_back_to_the_one_before(tmp_path: Path, part: str) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / part).unlink()
    assert loaded_frames(tmp_path) == 1


@pytest.mark.parametrize("part", [TENSORS, STATE, MANIFEST])
def test_a_truncated_file_falls_back_to_the_one_before(tmp_path: Path, part: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / part
    path.write_bytes(path.read_bytes()[:-5])
    assert loaded_frames(tmp_path) == 1


@pytest.mark.parametrize("content", ["[]", "{}", "null", "1", '{"state.json": 5}'])
def test_a_manifest_of_another_form_is_not_believed(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, 1)
    (path / MANIFEST).write_text(content)
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        checkpoint.load_newest(tmp_path)


def test_a_torn_folder_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    save(tmp_path, 1)
    whole = save(tmp_path, 2)
    # As a kill would leave it: under the other name, with a part of the files.
    torn = tmp_path / f".{whole.name}.tmp"
    shutil.move(whole, torn)
    (torn / MANIFEST).unlink()
    (torn / "leftover").write_text("")
    assert checkpoint.names(tmp_path) == [name_of(1)]
    assert loaded_frames(tmp_path) == 1
    again = save(tmp_path, 2)
    assert not torn.exists()
    assert not (again / "leftover").exists()
    assert loaded_frames(tmp_path) == 2


def test_a_failed_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, keep=1)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(SaveFailed, match="No space left"):
            save(tmp_path, 2, keep=1)
    assert loaded_frames(tmp_path) == 1


def test_says_of_every_checkpoint_why_none_can_be_loaded(tmp_path: Path) -> None:
    flip(save(tmp_path, 1) / STATE)
    (save(tmp_path, 2) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"2-updates-0+: .*No such file.*; .*state.json: not"):
        checkpoint.load_newest(tmp_path)


def test_a_path_without_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "frames-1")


def save_replay(folder: Path, sign: Callable[[], None]) -> None:
    folder.mkdir()
    (folder / "rows.npy").write_bytes(bytes(range(200)))
    (folder / "numbers.json").write_text("{}")


def save_with_replay(folder: Path, number: int) -> Path:
    name = name_of(number)
    return checkpoint.save(folder, name, sample(number), keep=3, save_replay=save_replay)


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


def test_there_may_be_no_replay(tmp_path: Path) -> None:
    assert checkpoint.find_replay(save(tmp_path, 1)) is None


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_damaged_replay_is_not_believed_but_the_rest_is(tmp_path: Path, position: int) -> None:
    path = save_with_replay(tmp_path, 1)
    flip(path / REPLAY / "rows.npy", position)
    with pytest.raises(CheckpointError, match=r"replay/rows.npy: not as it was written"):
        checkpoint.find_replay(path)
    assert loaded_frames(tmp_path) == 1


def test_a_replay_that_lacks_a_file_is_not_believed(tmp_path: Path) -> None:
    path = save_with_replay(tmp_path, 1)
    (path / REPLAY / "rows.npy").unlink()
    with pytest.raises(CheckpointError, match=r"replay: not readable \(.*rows.npy"):
        checkpoint.find_replay(path)


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


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_the_next_updates_are_the_same(tmp_path: Path, kind: Kind, momentum: float) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=0.05, momentum=momentum, epsilon=0.01)
    network = make_network()
    optimizer = make_optimizer(network.parameters(), config)
    for _ in range(3):
        update(network, optimizer, torch.randn(4, 2))
    kept = Checkpoint(checkpoint.pack({"agent": network}, optimizer), state_of(1))
    path = checkpoint.save(tmp_path, name_of(1), kept, keep=1)
    tensors = checkpoint.load(path).tensors
    twin = make_network()
    twin_optimizer = make_optimizer(twin.parameters(), config)
    checkpoint.unpack_module(tensors, "agent", twin)
    checkpoint.unpack_optimizer(tensors, twin_optimizer)
    for _ in range(3):
        inputs = torch.randn(4, 2)
        update(network, optimizer, inputs)
        update(twin, twin_optimizer, inputs)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_an_optimizer_that_has_not_stepped_can_be_packed(kind: Kind) -> None:
    config, network = OptimizerConfig(kind=kind), make_network()
    optimizer = make_optimizer(network.parameters(), config)
    checkpoint.unpack_optimizer(checkpoint.pack({"agent": network}, optimizer), optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_the_settings_come_from_the_configuration() -> None:
    network = make_network()
    optimizer = make_optimizer(network.parameters(), OptimizerConfig(learning_rate=0.1))
    update(network, optimizer, torch.randn(4, 2))
    other = make_optimizer(network.parameters(), OptimizerConfig(learning_rate=0.2, beta1=0.0))
    checkpoint.unpack_optimizer(checkpoint.pack({"agent": network}, optimizer), other)
    assert other.param_groups[0]["lr"] == 0.2
    assert other.param_groups[0]["betas"] == (0.0, 0.999)


@pytest.mark.parametrize("other", [make_network(4), nn.Linear(2, 3)], ids=["size", "layers"])
def test_refuses_another_network(other: nn.Module) -> None:
    network = make_network()
    optimizer = make_optimizer(network.parameters(), OptimizerConfig())
    with pytest.raises(CheckpointError, match="the checkpoint is of another network: "):
        checkpoint.unpack_module(
            checkpoint.pack({"agent": network}, optimizer), "agent", other
        )
