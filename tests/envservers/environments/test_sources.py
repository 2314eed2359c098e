from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from envservers.environments.sources import Sources


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_between_learners.py"
    path.write_text("REWARD = 1.0\n")
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return path


def test_a_file_that_is_edited_after_it_was_seen_is_found(module: Path) -> None:
    sources = Sources()
    importlib.import_module(module.stem)
    assert sources.find_changed() == ""
    assert sources.find_changed() == ""
    module.write_text("REWARD = 25.0\n")
    assert sources.find_changed() == str(module)


def test_an_older_file_in_its_place_is_found(module: Path) -> None:
    sources = Sources()
    importlib.import_module(module.stem)
    sources.find_changed()
    os.utime(module, (1.0, 1.0))
    assert sources.find_changed() == str(module)


def test_what_was_imported_before_is_not_looked_at(module: Path) -> None:
    importlib.import_module(module.stem)
    sources = Sources()
    sources.find_changed()
    os.utime(module, (1.0, 1.0))
    assert sources.find_changed() == ""


def test_a_file_that_is_gone_has_no_new_code(module: Path) -> None:
    sources = Sources()
    importlib.import_module(module.stem)
    sources.find_changed()
    module.unlink()
    assert sources.find_changed() == ""
