"""Where modules are found, and that a user's files never stand in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seed.process.module_folders import module_folders, python_command, search, working_folder

# The product's own packages, Python's, and those that it needs.
SHADOWS = ("seed", "envservers", "queue", "json", "numpy", "torch", "sitecustomize", "zmq")


def test_the_working_folder_comes_first_then_the_configurations_then_those_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    assert module_folders(None, ()) == (here,)
    assert module_folders(Path("run.toml"), ["."]) == (here,)
    assert module_folders(Path("configs/run.toml"), ["more", "/other", here]) == (
        here, f"{here}/configs", f"{here}/more", "/other",
    )  # fmt: skip


def test_a_working_folder_that_is_gone_or_that_toml_cannot_say_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert os.fsdecode(b"/\xff") not in module_folders(None, [os.fsdecode(b"/\xff")])
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert working_folder() == []
    assert module_folders(Path("configs/run.toml"), ["/other"]) == ("/other",)


def test_folders_are_searched_last_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/a", "/b"])
    search(["/c", "/a"])
    search(["/c"])
    assert sys.path == ["/a", "/b", "/c"]


def run(folder: Path, code: str, folders: tuple[str, ...]) -> str:
    """What `main` of a module printed that is the second of two given folders."""
    (folder / "modules").mkdir()
    (folder / "modules" / "program.py").write_text(f"import sys\ndef main():\n    {code}\n")
    command = [*python_command("program", (*folders, str(folder / "modules"))), "an argument"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_a_program_finds_our_packages_and_its_folders(tmp_path: Path) -> None:
    code = (
        "import seed.wire.spaces, envservers.supervision.supervisor; "
        "print(sys.path[-2:], sys.argv[1:])"
    )
    folders = ["/it's \"here\"", str(tmp_path / "modules")]
    assert run(tmp_path, code, (folders[0],)) == f"{folders} ['an argument']\n"


def test_files_with_the_names_of_others_hinder_no_program(tmp_path: Path) -> None:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    code = "import json, queue, numpy, seed.wire.codec, envservers.server; print('well')"
    assert run(tmp_path, code, (str(tmp_path),)) == "well\n"
