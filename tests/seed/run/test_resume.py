"""From which checkpoint a run goes on, and what becomes of figures from beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seed.config.schema import Config, ConfigError
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError
from seed.process.exit_codes import CommandError
from seed.run.resume import find_checkpoint, prepare_folder
from tests.seed.checkpoints import state_of
from tests.seed.configs import make_config


def save(run_dir: Path, env_frames: int, **more: Any) -> Path:
    kept = Checkpoint({"agent.weight": torch.zeros(1)}, state_of(env_frames, **more))
    return checkpoint.save(run_dir / "checkpoints", checkpoint.name_of(env_frames, 0), kept, keep=9)


def start_of(run_dir: Path, resume: object = "auto") -> int | None:
    """The frames that a run starts with; None for the first one."""
    loaded = find_checkpoint(configure(run_dir, resume))
    return None if loaded is None else int(loaded.state["env_frames"])


def configure(run_dir: Path, resume: object = "auto") -> Config:
    return replace(make_config(), run_dir=str(run_dir), resume=str(resume))


def test_goes_on_from_the_newest_checkpoint_unless_told_otherwise(tmp_path: Path) -> None:
    run_dir, other = tmp_path / "run", tmp_path / "other"
    assert start_of(run_dir) is start_of(run_dir, "never") is None
    older = save(other, 900)
    newest = [save(folder, 12_000) for folder in (run_dir, other)]
    assert start_of(run_dir) == 12_000
    assert start_of(other, newest[1]) == 12_000
    # Of another run, whose newer ones are its own affair.
    assert start_of(tmp_path / "third", older) == 900


Damage = Callable[[Path], object]
REFUSED: list[tuple[str, Damage, str, type[CommandError], str]] = [
    ("never", lambda run_dir: save(run_dir, 900), "resume = 'never': .*choose another run_dir",
     ConfigError, "900"),
    # The next start would silently go on from the newer one.
    ("run/checkpoints/" + checkpoint.name_of(900, 0),
     lambda run_dir: (save(run_dir, 900), save(run_dir, 12_000)), "has a newer checkpoint, fram",
     ConfigError, "900"),
    ("no/such/checkpoint", lambda run_dir: None, "no/such/checkpoint: not a readable checkpoint",
     CheckpointError, ""),
    *((resume, lambda run_dir: (run_dir / "checkpoints").symlink_to(run_dir / "checkpoints"),
       r"/checkpoints: cannot be read \(Too many levels", CheckpointError, "")
      for resume in ("auto", "never")),
    *((resume, lambda run_dir: (run_dir / "checkpoints").write_text("mine"),
       "/checkpoints: expected a folder, found a file", CheckpointError, "")
      for resume in ("auto", "never")),
    ("auto", lambda run_dir: save(run_dir, 900, environment="function elsewhere:make"),
     "is a run of 'function elsewhere:make', not of 'function envservers.tasks.catch:make'; choose",
     ConfigError, "900"),
]  # fmt: skip


@pytest.mark.parametrize(("resume", "damage", "words", "kind", "kept"), REFUSED)
def test_refuses_to_start_where_it_is_not_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: str, damage: Damage, words: str,
    kind: type[CommandError], kept: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    damage(run_dir)
    with pytest.raises(kind, match=words):
        start_of(run_dir, resume)
    assert not kept or (run_dir / "checkpoints" / checkpoint.name_of(int(kept), 0)).is_dir()


@pytest.mark.parametrize("where", ["its own", "another's"])
def test_says_where_it_starts_and_sets_earlier_figures_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    caplog.set_level("INFO")
    run_dir, lines = tmp_path / "run", '{"env_frames": 0}\n{"env_frames": 932560}\n'
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(lines)
    prepare_folder(configure(run_dir), None)
    assert "starting from frame 0" in caplog.messages
    assert f"what an earlier attempt has left is in {run_dir / 'earlier' / '1'}" in caplog.messages
    path = save(run_dir if where == "its own" else tmp_path / "other", 900)
    (run_dir / "metrics.jsonl").write_text(lines)
    prepare_folder(configure(run_dir, path), checkpoint.load(path))
    aside = (run_dir / "earlier" / "2" / "metrics.jsonl").read_text()
    # The lines of a run are none of one that starts from its checkpoint elsewhere.
    assert aside == (lines.splitlines(True)[1] if where == "its own" else lines)
    assert (run_dir / "metrics.jsonl").exists() == (where == "its own")
