"""Any damage to a run's folder ends in a checkpoint or in an error that says what is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seed.config.schema import Config, ConfigError, OptimizerConfig
from seed.learner import checkpoint
from seed.learner.checkpoint import MANIFEST, STATE, TENSORS, Checkpoint, CheckpointError
from seed.learner.optimizers import make_optimizer
from seed.run.folder import check_entries, set_aside
from seed.run.provenance import describe_changes, provenance
from seed.run.resume import find_checkpoint
from tests.seed.checkpoints import name_of, state_of
from tests.seed.entries import put

CONFIG = Config(algorithm=OptimizerConfig())
PARTS = (TENSORS, STATE, MANIFEST)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
STATES = st.dictionaries(
    st.sampled_from([
        "env_frames", "env_steps", "learner_steps", "time_s", "optimizer", "environment",
        "version", "config", "spaces", "other",
    ]),
    VALUES,
)  # fmt: skip
# Of a checkpoint: (part, position, byte).
FLIPS = st.tuples(st.sampled_from(PARTS), st.integers(0, 400), st.integers(0, 255))
NAMES = st.sampled_from([
    *PARTS, "replay", "metrics.jsonl", "config.toml", "tensorboard", "checkpoints", "lock",
    name_of(9), "frames-best", f".{name_of(9)}.tmp",
])  # fmt: skip
KINDS = st.sampled_from(["nothing", "folder", "file", "bytes", "pipe", "loop"])


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    agent = nn.Linear(2, 3)
    optimizer = make_optimizer(agent.parameters(), OptimizerConfig())
    agent(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return agent, optimizer


@pytest.fixture(scope="module")
def valid() -> Iterator[Path]:
    """A run's folder with two checkpoints and lines of metrics."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        agent, optimizer = network()
        tensors = checkpoint.pack({"agent": agent}, optimizer)
        for frames in (5, 9):
            state = state_of(frames, **provenance(CONFIG), optimizer="adam")
            kept = Checkpoint(tensors, state)
            checkpoint.save(run_dir / "checkpoints", name_of(frames), kept, keep=2)
        (run_dir / "metrics.jsonl").write_text('{"env_frames": 4}\n{"env_frames": 12}\n')
        (run_dir / "config.toml").touch()
        yield run_dir


def start(valid: Path, damage: Callable[[Path, Path], object]) -> int | None:
    """The frames that a start goes on from in a damaged copy; all other errors come through.

    The damage is done to the run's folder and its newest checkpoint.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        shutil.copytree(valid, run_dir)
        damage(run_dir, run_dir / "checkpoints" / name_of(9))
        try:
            return go_on(run_dir)
        except (CheckpointError, ConfigError) as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 3_000
        return None


def go_on(run_dir: Path) -> int | None:
    """All that a start reads, and the first update."""
    check_entries(run_dir)
    loaded = find_checkpoint(Config(run_dir=str(run_dir), algorithm=CONFIG.algorithm))
    if loaded is not None:
        assert "\n" not in describe_changes(loaded.state, CONFIG)
        agent, optimizer = network()
        checkpoint.unpack_module(loaded.tensors, "agent", agent)
        checkpoint.unpack_optimizer(loaded.tensors, agent, optimizer)
        agent(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    frames = int(loaded.state["env_frames"]) if loaded else None
    set_aside(run_dir, frames)
    return frames


def sign(path: Path, part: str, content: bytes) -> None:
    """Writes another part, with the digest that it has."""
    (path / part).write_bytes(content)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest[part] = hashlib.sha256(content).hexdigest()
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_what_is_not_damaged_is_gone_on_with(valid: Path) -> None:
    assert start(valid, lambda run_dir, path: None) == 9


def change_state(path: Path, state: dict[str, Any], kept: bool = True) -> None:
    there = json.loads((path / STATE).read_text()) if kept else {}
    sign(path, STATE, json.dumps(there | state).encode())


def test_a_name_of_a_setting_is_no_end_of_a_line(valid: Path) -> None:
    assert start(valid, lambda _, path: change_state(path, {"config": {"a\nb": 1}})) == 9


@settings(max_examples=60, deadline=None)
@given(state=STATES, kept=st.booleans())
def test_any_state(valid: Path, state: dict[str, Any], kept: bool) -> None:
    assert start(valid, lambda _, path: change_state(path, state, kept)) in (5, 9, None)


@settings(max_examples=30, deadline=None)
@given(content=VALUES)
@pytest.mark.parametrize("part", [STATE, MANIFEST])
def test_any_state_or_manifest_that_is_json(valid: Path, part: str, content: Any) -> None:
    text = json.dumps(content)
    assert start(valid, lambda _, path: (path / part).write_text(text)) == 5


@settings(max_examples=60, deadline=None)
@given(flips=st.lists(FLIPS, min_size=1, max_size=4), signed=st.booleans())
def test_any_byte(valid: Path, flips: list[tuple[str, int, int]], signed: bool) -> None:
    def damage(_: Path, path: Path) -> None:
        for part, position, byte in flips:
            content = bytearray((path / part).read_bytes())
            content[position % len(content)] = byte
            if signed and part != MANIFEST:
                sign(path, part, bytes(content))
            elif not signed:
                (path / part).write_bytes(content)

    start(valid, damage)


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.booleans(), NAMES, KINDS), min_size=1, max_size=3))
def test_any_entries(valid: Path, changes: list[tuple[bool, str, str]]) -> None:
    def damage(run_dir: Path, newest: Path) -> None:
        for inside, name, kind in changes:
            folder = newest if name in PARTS else run_dir / "checkpoints" if inside else run_dir
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            if path.parent.is_dir():
                path.unlink(missing_ok=True)
                if kind != "nothing":
                    put(path, kind)

    start(valid, damage)
