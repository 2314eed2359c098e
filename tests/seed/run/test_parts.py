"""A run's hold on its folder."""

from __future__ import annotations

import contextlib
import errno
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from seed.config.schema import Config, ConfigError, EnvironmentConfig
from seed.run.parts import write_config


# Were it "never" or a path, the same file could not go on with its own run.
def test_the_written_configuration_goes_on_with_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "a" / "run"
    config = replace(Config(), run_dir=str(run_dir), resume="never", algorithm=EnvironmentConfig())
    for seed in (3, 4):
        write_config(replace(config, seed=seed), run_dir)
        tables = tomllib.loads((run_dir / "config.toml").read_text())
        assert (tables["resume"], tables["seed"]) == ("auto", seed)
    assert [path.name for path in run_dir.iterdir()] == ["config.toml"]


def test_the_written_configuration_is_utf_8_wherever_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    config = replace(Config(), run_dir=str(tmp_path), note="größer", algorithm=EnvironmentConfig())
    write_config(config, tmp_path)
    assert tomllib.loads((tmp_path / "config.toml").read_bytes().decode())["note"] == "größer"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_in_the_place_of_the_unfinished_configuration_stays_as_it_is(
    tmp_path: Path, kind: str
) -> None:
    run_dir, mine = tmp_path / "run", tmp_path / "mine"
    run_dir.mkdir()
    mine.write_text("mine")
    place = run_dir / ".config.toml.tmp"
    if kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place) if kind == "pipe" else place.symlink_to(mine)
    config = replace(Config(), run_dir=str(run_dir), algorithm=EnvironmentConfig())
    with contextlib.suppress(ConfigError) if kind == "folder" else contextlib.nullcontext():
        write_config(config, run_dir)
    assert mine.read_text() == "mine"
    assert (run_dir / "config.toml").exists() == (kind != "folder")


def test_a_configuration_that_cannot_be_written_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_config(replace(Config(), algorithm=EnvironmentConfig()), tmp_path)
    assert list(tmp_path.iterdir()) == []
