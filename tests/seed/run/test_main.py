"""`seed-learner` in process: from which checkpoint it starts, what it prints, how it ends."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seed.config.loading import parse_command_line
from seed.config.schema import Config, ConfigError
from seed.contract.loading import load_algorithm_config
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError, SaveFailed
from seed.learner.divergence import Diverged
from seed.process.signals import SIGNALS, Signals
from seed.run import build, main
from seed.run.description import UnusableEnvironment
from seed.run.local_servers import LocalServerError
from seed.run.lock import RunLock, hold_run
from seed.run.resume import find_checkpoint, prepare_folder
from seed.run.spaces import Spaces
from seed.wire.spaces import SpaceSpec
from tests.seed.checkpoints import state_of

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


@pytest.fixture(autouse=True)
def process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives the process its log, its hook for threads and its signal handlers back."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def learn(file: Path, *arguments: object) -> int:
    """Runs the command with the run's folder beside the file."""
    words = [file, "--run-dir", file.parent / "run", *arguments]
    return main.main([str(word) for word in words])


def save(run_dir: Path, env_frames: int, **more: Any) -> Path:
    kept = Checkpoint({"agent.weight": torch.zeros(1)}, state_of(env_frames, **more))
    return checkpoint.save(run_dir / "checkpoints", checkpoint.name_of(env_frames, 0), kept, keep=9)


def start_of(file: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a dry run says of where the run would start."""
    assert learn(file, "--dry-run", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    return next(line.removeprefix("# from ") for line in lines if line.startswith("# from "))


def refusal(file: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and the only line of a run that does not start."""
    code = learn(file, *arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("seed-learner: ")
    assert printed.err.count("\n") == 1
    return code, printed.err


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_new_run_starts_with_the_first_frame(
    file: Path, capsys: pytest.CaptureFixture[str], resume: str
) -> None:
    assert start_of(file, capsys, "--resume", resume) == "the first frame on"


def test_goes_on_from_the_newest_checkpoint_unless_told_otherwise(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for env_frames in (900, 12_000):
        save(file.parent / "run", env_frames)
    assert start_of(file, capsys) == "12,000 frames on"


@pytest.mark.parametrize(
    ("shape", "kept", "words"),
    [
        ((10, 5), (4,), "values divided by 4"),
        ((10, 5), None, "values divided by 255"),
        # Other spaces than today's: the refusal to load them comes later.
        ((9, 5), (4,), "values taken as they are"),
    ],
)
def test_a_checkpoint_keeps_the_scale_that_it_was_learned_with(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    kept: tuple[int, ...] | None,
    words: str,
) -> None:
    """Earlier versions kept no bounds, and divided all uint8 by 255."""
    actions = SpaceSpec("int64", (), 3)
    declared = SpaceSpec("uint8", (10, 5), largest=(1,))
    monkeypatch.setattr(build, "describe", lambda config: Spaces(declared, actions))
    assert learn(file, "--dry-run") == 0
    assert "values taken as they are" in capsys.readouterr().out
    trained = Spaces(SpaceSpec("uint8", shape, largest=kept), actions)
    save(file.parent / "run", 900, spaces=trained.to_map())
    assert learn(file, "--dry-run") == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
def test_never_refuses_a_run_that_has_begun(
    file: Path, capsys: pytest.CaptureFixture[str], mode: tuple[str, ...]
) -> None:
    path = save(file.parent / "run", 900)
    code, message = refusal(file, capsys, "--resume", "never", *mode)
    assert code == 2
    assert "resume = 'never'" in message
    assert "choose another run_dir" in message
    assert path.exists()


def test_goes_on_from_a_given_checkpoint_of_another_run(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "other", 12_000)
    path = save(tmp_path / "other", 900)
    assert start_of(file, capsys, "--resume", path) == "900 frames on"


def test_the_newest_checkpoint_may_be_given_by_its_path(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(file.parent / "run", 900)
    path = save(file.parent / "run", 12_000)
    assert start_of(file, capsys, "--resume", path) == "12,000 frames on"


# The next start would silently go on from the newer one.
@pytest.mark.parametrize("folder", ["run", "other"])
def test_refuses_a_given_checkpoint_where_newer_ones_are(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    path = save(tmp_path / folder, 900)
    newest = save(tmp_path / "run", 12_000)
    code, message = refusal(file, capsys, "--resume", path)
    assert code == 2
    assert f"has a newer checkpoint, {newest.name}," in message
    assert path.exists()
    assert newest.exists()


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_checkpoints_that_cannot_be_looked_at_are_an_error(
    file: Path, capsys: pytest.CaptureFixture[str], resume: str
) -> None:
    folder = file.parent / "run" / "checkpoints"
    folder.parent.mkdir()
    folder.symlink_to(folder)
    code, message = refusal(file, capsys, "--resume", resume)
    assert code == 78
    assert f"{folder}: cannot be read (Too many levels" in message


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_file_in_the_place_of_the_checkpoints_is_an_error(
    file: Path, capsys: pytest.CaptureFixture[str], resume: str
) -> None:
    folder = file.parent / "run" / "checkpoints"
    folder.parent.mkdir()
    folder.write_text("mine")
    code, message = refusal(file, capsys, "--resume", resume, "--dry-run")
    assert code == 78
    assert f"{folder}: expected a folder, found a file" in message
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("resume", ["no/such/checkpoint", "newest"])
def test_a_given_checkpoint_that_is_not_there_is_an_error(
    file: Path, capsys: pytest.CaptureFixture[str], resume: str
) -> None:
    code, message = refusal(file, capsys, "--resume", resume)
    assert code == 78
    assert f"{resume}: not a readable checkpoint" in message


def test_a_dry_run_is_a_configuration_with_comments(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn(file, "--dry-run", "--seed", 9, "--learner.queue-batches", 1.5) == 0
    printed = capsys.readouterr().out
    tables = tomllib.loads(printed)
    assert tables["seed"] == 9
    assert tables["network"]["hidden_sizes"] == [4]
    assert tables["algorithm"]["name"] == "vtrace"
    # 50 pixels to 4 units, then 3 logits and a value.
    weights = 50 * 4 + 4 + 4 * 4 + 4
    for line in ("# would start:", f"# agent: ActorCritic with {weights} weights",
                 "# a queue of 48 unrolls of 20 steps"):  # fmt: skip
        assert line in printed.splitlines()
    assert "\n# 1 local environment servers: " in printed
    assert "--connect 'tcp://127.0.0.1:*' " in printed
    assert "acting on " in printed
    assert " GiB on " in printed
    assert not (file.parent / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--learner.device", "cuda:99"), "learner.device = 'cuda:99'"),
        (("--inference.device", "cuda:99"), "inference.device = 'cuda:99'"),
        (("--environment.id", "no.such:make"), "no.such"),
        (("--network.torso", "nature"), "network: "),
        (("--local-envservers", "9"), "local_envservers = 9"),
        (("--replay.burn-in", "1"), "learns from the queue"),
        (("--inference.max-envs", "100000000"), "inference.max_envs = 100000000: the store's"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    code, message = refusal(file, capsys, "--dry-run", *arguments)
    assert code == 2
    assert reason in message


def test_a_run_dir_that_cannot_be_written_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str], assembled: None
) -> None:
    code, message = refusal(file, capsys, "--run-dir", file / "run")
    assert code == 2
    assert f"run_dir = {str(file / 'run')!r}: cannot be written (Not a directory)" in message


def test_says_where_it_starts_and_sets_earlier_figures_aside(
    file: Path, assembled: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run_dir = file.parent / "run"
    words = [str(file), "--run-dir", str(run_dir)]
    config = parse_command_line(words, load_algorithm_config).config
    run_dir.mkdir()
    lines = run_dir / "metrics.jsonl"
    lines.write_text('{"env_frames": 932560}\n')
    prepare_folder(config, None)
    assert "starting from frame 0\n" in caplog.text
    assert f"what an earlier attempt has left is in {run_dir / 'earlier' / '1'}" in caplog.text
    build.assemble(config, None).learner._save()
    lines.write_text('{"env_frames": 0}\n{"env_frames": 900}\n')
    loaded = find_checkpoint(config)
    assert loaded is not None
    prepare_folder(config, loaded)
    assert lines.read_text() == '{"env_frames": 0}\n'
    # The lines of a run are none of one that starts from its checkpoint elsewhere.
    other = replace(config, run_dir=str(file.parent / "other"), resume=str(loaded.path))
    (file.parent / "other").mkdir()
    (file.parent / "other" / "metrics.jsonl").write_text('{"env_frames": 0}\n')
    prepare_folder(other, find_checkpoint(other))
    assert (file.parent / "other" / "earlier" / "1" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "words", [("--learner.device", "cuda:99"), ("--network.torso", "nature"),
              ("--resume", "no/such/checkpoint")]
)  # fmt: skip
def test_a_run_that_is_refused_leaves_no_folder_behind(
    file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    refusal(file, capsys, "--run-dir", file.parent / "a" / "run", *words)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "config.toml", "lock"])
def test_odd_entries_of_a_runs_folder_are_refused_in_a_line(
    file: Path, capsys: pytest.CaptureFixture[str], assembled: None, name: str
) -> None:
    path = file.parent / "run" / name
    path.parent.mkdir()
    path.touch() if name == "tensorboard" else path.mkdir()
    code, message = refusal(file, capsys)
    assert code == 2
    assert "run" in message


def test_a_run_that_another_learner_works_on_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed.run.lock._PATIENCE_S", 0.0)
    monkeypatch.setattr(main, "_train", lambda config, signals, lock: 0)
    with hold_run(file.parent / "run"):
        assert learn(file) == 2
        assert "another learner still works there" in capsys.readouterr().err
        # What only looks is not held up.
        assert start_of(file, capsys) == "the first frame on"
    assert learn(file) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("seed = -1"), 2),
        (UnusableEnvironment("no such game"), 2),
        (LocalServerError("it keeps ending"), 2),
        (Diverged("the loss is nan"), 77),
        (CheckpointError("nothing is whole"), 78),
        (SaveFailed("the disk is full"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_end_has_its_exit_code(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: Exception, code: int,
) -> None:  # fmt: skip
    def fail(config: Config, signals: Signals, lock: RunLock) -> int:
        raise error

    monkeypatch.setattr(main, "_train", fail)
    assert refusal(file, capsys) == (code, f"seed-learner: {error}\n")


@pytest.mark.parametrize(("code", "commands"), [(0, 1), (75, 2), (130, 2)])
def test_ends_with_the_commands_that_come_next(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int,
    commands: int,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    # What it prints is another test's.
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr(main, "_train", lambda config, signals, lock: code)
    assert learn(file) == code
    run_dir = file.parent / "run"
    both = [f"to go on: seed-learner {file} --run-dir {run_dir}",
            f"to see it play: seed-eval {run_dir}"]  # fmt: skip
    assert caplog.messages == both[-commands:]


def test_what_is_normal_is_said_at_the_start(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, assembled: None
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr(main, "freeze_gc", lambda: None)

    def refuse(*_: object) -> None:
        raise LocalServerError("the test ends here")

    monkeypatch.setattr(main, "LocalServers", refuse)
    assert learn(file, "--note", "Flat for a while.") == 2
    assert "Flat for a while." in caplog.messages


# Starting a run again helps once there is room, or the disk answers.
@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EIO, 1), (errno.EACCES, 2), (errno.EROFS, 2)],
)
@pytest.mark.parametrize("failing", ["pathlib.Path.mkdir", "seed.run.lock.RunLock._open",
                         "pathlib.Path.write_text", "seed.run.metrics.open_to_append"])  # fmt: skip
def test_a_disk_without_room_is_no_refused_configuration(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    assembled: None, failing: str, number: int, code: int,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(main, "freeze_gc", lambda: None)
    monkeypatch.setattr(failing, fail)
    assert learn(file, "--local-envservers", 0) == code
    assert f"cannot be written ({os.strerror(number)})" in capsys.readouterr().err
