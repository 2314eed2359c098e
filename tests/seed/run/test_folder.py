"""A run's folder: odd entries are refused, figures of lost work set aside, its file is whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seed.config.schema import ConfigError
from seed.run.folder import RunFolder, check_entries, set_aside
from seed.run.lock import hold_run
from tests.seed.configs import make_config
from tests.seed.entries import put


def fill(run_dir: Path, *frames: int) -> Path:
    """The folder of a run with a line of metrics at each of these frames."""
    run_dir.mkdir(exist_ok=True)
    with (run_dir / "metrics.jsonl").open("a") as lines:
        lines.writelines(json.dumps({"env_frames": at}) + "\n" for at in frames)
    (run_dir / "tensorboard").mkdir(exist_ok=True)
    (run_dir / "tensorboard" / "events").touch()
    (run_dir / "config.toml").write_text(f"seed = {frames[-1]}")
    return run_dir


def frames_of(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["env_frames"] for line in lines]


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "tensorboard", "earlier"])
@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "loop"])
def test_something_else_in_the_place_of_an_entry_is_refused(
    tmp_path: Path, name: str, kind: str
) -> None:
    put(tmp_path / name, kind)
    if kind == ("file" if "." in name else "folder"):
        check_entries(tmp_path)
        return
    with pytest.raises(ConfigError, match=rf"/{name}: .*; move it away, or choose another run_dir"):
        check_entries(tmp_path)


def test_all_that_an_attempt_without_a_checkpoint_left_is_set_aside(tmp_path: Path) -> None:
    for frames in (None, 0):
        assert set_aside(tmp_path, frames) == ""
    assert list(tmp_path.iterdir()) == []
    # Folders of others are left alone.
    for name in ("7", "notes", "9" * 40):
        (tmp_path / "earlier" / name).mkdir(parents=True)
    for attempt in (8, 9):
        said = set_aside(fill(tmp_path, 5, 900 * attempt), None)
        folder = tmp_path / "earlier" / str(attempt)
        assert said == f"what an earlier attempt has left is in {folder}"
        assert frames_of(folder) == [5, 900 * attempt]
        assert (folder / "tensorboard" / "events").exists()
        assert (folder / "config.toml").read_text() == f"seed = {900 * attempt}"
        assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("frames", "kept", "aside"),
    [
        ((10, 20, 30, 40), [10, 20], [30, 40]),
        # Lines that step back, as those of earlier versions do, are cut wherever they are.
        ((10, 20, 30, 15, 25), [10, 20, 15], [30, 25]),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_lines_from_beyond_the_checkpoint_are_set_aside(
    tmp_path: Path, frames: tuple[int, ...], kept: list[int], aside: list[int], linked: bool
) -> None:
    run_dir = fill(tmp_path / "run", *frames)
    if linked:
        lines = shutil.move(run_dir / "metrics.jsonl", tmp_path / "disk")
        (run_dir / "metrics.jsonl").symlink_to(lines)
    folder = run_dir / "earlier" / "1"
    assert set_aside(run_dir, 20) == (
        "2 lines of metrics.jsonl from after 20 frames, which are played again, are in "
        f"{folder}"
    )
    assert (frames_of(run_dir), frames_of(folder)) == (kept, aside)
    assert (run_dir / "metrics.jsonl").is_symlink() == linked
    # TensorBoard hides what is beyond by itself.
    assert (run_dir / "tensorboard" / "events").exists()
    assert set_aside(run_dir, 20) == ""
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "config.toml", "earlier", "metrics.jsonl", "tensorboard",
    ]  # fmt: skip


# The line that a kill cut off would make one with the next.
@pytest.mark.parametrize(
    "torn", [b'{"env_frames": 7', b'{"env_frames": 7}', b"\n", b"\x00" * 50, b"[7]\n", b"7\n",
             b'{"env_frames": null}\n', b"[" * 3_000_000 + b"\n", b'{"env_frames": NaN}\n'],
    ids=lambda torn: repr(torn[:18]),
)  # fmt: skip
def test_what_is_no_line_is_set_aside(tmp_path: Path, torn: bytes) -> None:
    fill(tmp_path, 10)
    with (tmp_path / "metrics.jsonl").open("ab") as lines:
        lines.write(torn)
    assert set_aside(tmp_path, 20)
    assert frames_of(tmp_path) == [10]
    assert (tmp_path / "earlier" / "1" / "metrics.jsonl").read_bytes() == torn


@pytest.mark.parametrize(
    ("failing", "number"),
    [("seed.run.folder._next_folder", errno.ENOSPC), ("seed.run.folder._next_folder", errno.EACCES),
     ("os.fsync", errno.ENOSPC)],
)  # fmt: skip
def test_a_disk_that_is_full_does_not_stop_a_run_and_keeps_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    def refuse(_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(failing, refuse)
    fill(tmp_path, 10, 20)
    before = sorted(tmp_path.iterdir())
    if number == errno.ENOSPC:
        assert "stay among the run's own (No space left" in set_aside(tmp_path, 10)
    else:
        with pytest.raises(ConfigError, match=r"cannot be set aside \(Permission denied\)"):
            set_aside(tmp_path, 10)
    assert frames_of(tmp_path) == [10, 20]
    earlier = tmp_path / "earlier"
    assert not earlier.exists() or not any(earlier.iterdir())
    assert sorted({*tmp_path.iterdir()} - {earlier}) == before


@contextlib.contextmanager
def held(run_dir: Path, **changes: Any) -> Iterator[RunFolder]:
    with hold_run(run_dir) as lock:
        yield RunFolder(make_config(run_dir=str(run_dir), **changes), lock)


# Were it "never" or a path, the same file could not go on with its own run.
def test_the_written_configuration_goes_on_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    for note in ("klein", "größer"):
        with held(tmp_path / "run", resume="never", note=note) as folder:
            folder.write_config()
        tables = tomllib.loads((tmp_path / "run" / "config.toml").read_bytes().decode())
        assert (tables["resume"], tables["note"]) == ("auto", note)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_in_the_place_of_the_unfinished_configuration_stays_as_it_is(
    tmp_path: Path, kind: str
) -> None:
    run_dir, mine = tmp_path / "run", tmp_path / "mine"
    run_dir.mkdir()
    mine.write_text("mine")
    place = run_dir / ".config.toml.tmp"
    place.symlink_to(mine) if kind == "link" else put(place, kind)
    unwritten = contextlib.suppress(ConfigError) if kind == "folder" else contextlib.nullcontext()
    with held(run_dir) as folder, unwritten:
        folder.write_config()
    assert mine.read_text() == "mine"
    assert (run_dir / "config.toml").exists() == (kind != "folder")


def test_a_configuration_that_cannot_be_written_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fill)
    with held(tmp_path / "run") as folder:
        with pytest.raises(ConfigError, match="No space left on device"):
            folder.write_config()
        # One that is made anew goes on without.
        shutil.rmtree(tmp_path / "run")
        assert folder.hold()
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    assert "cannot be written (No space left on device)" in caplog.text
