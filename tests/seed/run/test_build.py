"""What is put together from a configuration and a checkpoint, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seed.config.loading import parse_command_line
from seed.contract.loading import load_algorithm_config
from seed.learner import checkpoint
from seed.learner.checkpoint import CheckpointError
from seed.run import build
from seed.run.lock import RunTaken
from seed.run.resume import find_checkpoint, restore

pytestmark = pytest.mark.usefixtures("describes_here")

FILE = """
local_envservers = 1
[environment]
kind = "function"
id = "envservers.tasks.catch:make"
[network]
hidden_sizes = [4]
[inference]
address = "tcp://127.0.0.1:*"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def test_says_what_differs_from_the_run_that_it_goes_on_with(
    file: Path, assembled: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [str(file), "--run-dir", str(file.parent / "run")]
    config = parse_command_line(words, load_algorithm_config).config
    first = build.assemble(config, None)
    assert first.learner._server_of == first.inference.server_of
    first.learner._save()
    loaded = checkpoint.load_newest(file.parent / "run" / "checkpoints")
    assert loaded is not None
    build.assemble(replace(config, seed=9), loaded)
    # The version is this one, of which nothing needs to be said.
    assert "written by version" not in caplog.text
    assert caplog.text.count("settings that differ: seed = 9 (it was 1)\n") == 1
    # As checkpoints were before they said it.
    for name in ("version", "config"):
        del loaded.state[name]
    build.assemble(replace(config, seed=9), loaded)
    assert caplog.text.count("going on from 0 frames") == 2
    assert caplog.text.count("settings that differ") == 1


# The main thread looks too, but not just before a checkpoint.
def test_a_checkpoint_is_written_only_into_a_folder_that_is_held(
    file: Path, assembled: None
) -> None:
    words = [str(file), "--run-dir", str(file.parent / "run")]
    run = build.assemble(parse_command_line(words, load_algorithm_config).config, None)

    def check() -> bool:
        raise RunTaken("another learner works there")

    lock: Any = SimpleNamespace(check=check)
    run.lock = lock
    with pytest.raises(RunTaken):
        run.learner._save()
    assert not (file.parent / "run" / "checkpoints").exists()


# Instead of every tensor that does not fit.
@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("--network.hidden-sizes", "5"), "network.hidden_sizes = [5] (it was [4])"),
        (("--network.lstm-size", "2"), "network.lstm_size = 2 (it was 0)"),
        (("--optimizer.kind", "rmsprop_tf"), 'optimizer.kind = "rmsprop_tf" (it was "adam")'),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_settings_that_differ(
    file: Path, assembled: None, words: tuple[str, ...], setting: str
) -> None:
    arguments = [str(file), "--run-dir", str(file.parent / "run")]
    config = parse_command_line(arguments, load_algorithm_config).config
    build.assemble(config, None).learner._save()
    changed = parse_command_line([*arguments, *words], load_algorithm_config).config
    loaded = find_checkpoint(changed)
    assert loaded is not None
    with pytest.raises(CheckpointError) as refused:
        restore(build.assemble(changed, None).learner, loaded, changed)
    said = str(refused.value)
    assert said.startswith(f"{loaded.path}: the checkpoint")
    assert said.endswith(
        f"; settings that differ: {setting}; set them back, or choose another run_dir"
    )
    assert said.count("weight") <= 1
