"""What lies beside checkpoints and is none: never taken for one, and never deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError, SaveFailed
from seed.learner.checkpoint.reading import _load_named
from tests.seed.checkpoints import loaded_frames, name_of, sample, save, state_of


def foreign(folder: Path, name: str) -> Path:
    """A whole checkpoint of many frames under a name that no save gives."""
    whole = checkpoint.save(folder / "elsewhere", name_of(9), sample(9), keep=1)
    return Path(shutil.move(whole, folder / name))


# Whoever keeps a good one, or copies one to be safe, must not have it taken for the newest, and
# not have it deleted.
@pytest.mark.parametrize(
    "name",
    ["frames-best", f"{name_of(9)}.copy", f"{name_of(9)} (1)", f"{name_of(9)}.tar", "frames-9",
     "frames-9-updates-0", "frames-000000000000009-updates-0000000000", f"x{name_of(9)}",
     f".{name_of(9)}", "frames-0000000000000\N{ARABIC-INDIC DIGIT NINE}-updates-0000000000",
     f"{name_of(9)}\n", ".frames-mine.tmp", f".{name_of(9)}.copy.tmp"],
)  # fmt: skip
def test_only_exact_names_are_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    save(tmp_path, 1)
    path = foreign(tmp_path, name)
    shutil.rmtree(tmp_path / "elsewhere")
    assert checkpoint.names(tmp_path) == [name_of(1)]
    assert loaded_frames(tmp_path) == 1
    assert f"not taken for checkpoints, and left alone: {name!a}\n" in caplog.text
    for number in (20, 21, 22):
        save(tmp_path, number, keep=1)
    assert checkpoint.names(tmp_path) == [name_of(22)]
    assert checkpoint.load(path).state["env_frames"] == 9


@pytest.mark.parametrize("kind", ["file", "pipe", "link to nothing", "link to itself"])
def test_what_has_a_checkpoints_name_and_is_no_folder_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    save(tmp_path, 1)
    path = tmp_path / name_of(9)
    match kind:
        case "file":
            path.touch()
        case "pipe":
            os.mkfifo(path)
        case "link to nothing":
            path.symlink_to(tmp_path / "nothing")
        case "link to itself":
            path.symlink_to(path)
    assert loaded_frames(tmp_path) == 1
    assert f"left alone: '{name_of(9)}'\n" in caplog.text
    with pytest.raises(SaveFailed):
        save(tmp_path, 9)
    save(tmp_path, 20, keep=1)
    assert os.path.lexists(path)


# One that was moved to another disk goes on to be one; what it links to is nobody's to delete.
def test_a_link_to_a_checkpoint_is_read_and_never_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    target = checkpoint.save(tmp_path / "other disk", name_of(5), sample(5), keep=1)
    folder.mkdir()
    (folder / name_of(5)).symlink_to(target)
    assert loaded_frames(folder) == 5
    save(folder, 20, keep=1)
    assert checkpoint.names(folder) == [name_of(5), name_of(20)]
    assert checkpoint.load(target).state["env_frames"] == 5


def test_many_others_are_named_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    for number in range(1, 9):
        (tmp_path / f"notes {number}").touch()
    assert loaded_frames(tmp_path) == 1
    assert len(caplog.records) == 1
    assert "'notes 5' and 3 more" in caplog.text


# As `mv` or `cp -r` of one leaves it: its age would be a lie.
def test_a_renamed_one_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 5)).rename(tmp_path / name_of(9))
    assert loaded_frames(tmp_path) == 1
    with pytest.raises(CheckpointError, match=rf"holds what is to be named {name_of(5)}"):
        _load_named(tmp_path / name_of(9))


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


# Two checkpoints without a frame between them, as at a stop right after the last one.
def test_the_newest_of_as_many_frames_has_the_most_updates(tmp_path: Path) -> None:
    for updates in (9, 10, 2):
        kept = Checkpoint({}, state_of(7, updates))
        checkpoint.save(tmp_path, checkpoint.name_of(7, updates), kept, keep=3)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state["learner_steps"] == 10
