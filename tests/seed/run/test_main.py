"""`seed-learner` in process: what it prints, what it leaves behind, and with which code it ends."""

from __future__ import annotations

import errno
import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from seed.algorithms import vtrace
from seed.config.schema import Config, ConfigError
from seed.learner.checkpoint import Checkpoint, CheckpointError, SaveFailed
from seed.learner.divergence import Diverged
from seed.learner.loop import Progress
from seed.process.exit_codes import CommandError
from seed.process.signals import Signals
from seed.run import main
from seed.run.build import Run
from seed.run.description import UnusableEnvironment
from seed.run.local_servers import LocalServerError, LocalServers
from seed.run.lock import hold_run
from seed.run.plan import Plan, plan_run
from tests.seed.configs import CATCH

pytestmark = pytest.mark.usefixtures("describes_here", "process_state")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(CATCH))
    return path


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """The log, whose handlers the command would take away."""
    caplog.set_level("INFO")
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    return caplog


def learn(file: Path, *arguments: object) -> int:
    """Runs the command with the run's folder beside the file."""
    words = [file, "--run-dir", file.parent / "run", *arguments]
    return main.main([str(word) for word in words])


def refusal(file: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and the only line of a run that does not start."""
    code = learn(file, *arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("seed-learner: ")
    assert printed.err.count("\n") == 1
    return code, printed.err.removeprefix("seed-learner: ")


def test_a_dry_run_prints_a_configuration_and_leaves_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_aloud(config: Config, loaded: Checkpoint | None) -> Plan:
        print("= words of an algorithm")
        return plan_run(config, loaded)

    monkeypatch.setattr(main, "plan_run", plan_aloud)
    assert learn(file, "--dry-run", "--seed", 9) == 0
    printed = capsys.readouterr()
    assert tomllib.loads(printed.out)["seed"] == 9
    assert "\n# from the first frame on\n" in printed.out
    assert "= words of an algorithm\n" in printed.err
    assert list(file.parent.iterdir()) == [file]


# All refusals are in tests/seed/test_refusals.py and tests/seed/run/test_resume.py.
@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--seed", "-1"), 2, "seed = -1: expected at least 0"),
        (("--learner.device", "cuda:99"), 2, "learner.device = 'cuda:99': no such device here"),
        (("--environment.id", "no.such:make"), 2, "no.such"),
        (("--resume", "no/such/checkpoint"), 78, "no/such/checkpoint: not a readable checkpoint"),
    ],
)
def test_what_is_refused_is_told_in_a_line_and_leaves_no_folder(
    file: Path, capsys: pytest.CaptureFixture[str], mode: tuple[str, ...], words: tuple[str, ...],
    code: int, said: str,
) -> None:  # fmt: skip
    answer = refusal(file, capsys, "--run-dir", file.parent / "a" / "run", *words, *mode)
    assert answer[0] == code
    assert said in answer[1]
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["metrics.jsonl", "lock"])
def test_odd_entries_of_a_runs_folder_are_refused(
    file: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (file.parent / "run" / name).mkdir(parents=True)
    code, message = refusal(file, capsys)
    assert (code, str(file.parent / "run") in message) == (2, True)


def test_a_run_that_another_learner_works_on_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed.run.lock._PATIENCE_S", 0.0)
    monkeypatch.setattr(main, "_train", lambda config, signals, lock: 0)
    with hold_run(file.parent / "run"):
        assert learn(file) == 2
        assert "another learner still works there" in capsys.readouterr().err
        # What only looks is not held up.
        assert learn(file, "--dry-run") == 0
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
        # Of names of files and what environments say, for one: they steer no terminal.
        (ConfigError("a \x1b[2J\u202e name\nand more"), 2),
    ],
    ids=repr,
)
def test_every_kind_of_end_has_its_exit_code(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: CommandError, code: int,
) -> None:  # fmt: skip
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(main, "_train", fail)
    assert learn(file) == code
    said = str(error).replace("\x1b[2J\u202e", r"\x1b[2J\u202e")
    assert capsys.readouterr() == ("", f"seed-learner: {said}\n")


# Starting a run again helps once there is room, or the disk answers.
@pytest.mark.parametrize(
    ("failing", "number", "code"),
    [
        *(("pathlib.Path.mkdir", number, 1) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)),
        *(("pathlib.Path.mkdir", number, 2) for number in (errno.EACCES, errno.EROFS)),
        ("seed.run.lock.RunLock._open", errno.ENOSPC, 1),
        ("pathlib.Path.write_text", errno.ENOSPC, 1),
        ("seed.run.metrics.open_to_append", errno.ENOSPC, 1),
    ],
)
def test_a_disk_without_room_is_no_refused_configuration(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    closed_afterwards: list[Run], failing: str, number: int, code: int,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(main, "freeze_gc", lambda: None)
    monkeypatch.setattr(failing, fail)
    assert learn(file, "--local-envservers", 0) == code
    assert f"cannot be written ({os.strerror(number)})" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "commands"), [(0, 1), (75, 2), (130, 2)])
def test_ends_with_the_commands_that_come_next(
    file: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int,
    commands: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(main, "_train", lambda config, signals, lock: code)
    assert learn(file) == code
    run_dir = file.parent / "run"
    both = [f"to go on: seed-learner {file} --run-dir {run_dir}",
            f"to see it play: seed-eval {run_dir}"]  # fmt: skip
    assert log.messages == both[-commands:]


Supervise = Callable[[Callable[[Run], None]], None]


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch, closed_afterwards: list[Run]) -> Supervise:
    """Takes what is done instead of a run's threads."""

    def supervise_by(ending: Callable[[Run], None]) -> None:
        monkeypatch.setattr(main, "freeze_gc", lambda: None)
        monkeypatch.setattr(main, "supervise", lambda run, signals, servers: ending(run))

    return supervise_by


# Servers are still being stopped, or the last checkpoint is being written.
@pytest.mark.parametrize(("frames", "code"), [(10, 0), (9, 75)])
def test_the_exit_code_is_that_of_a_signal_unless_the_run_is_complete(
    file: Path, supervised: Supervise, frames: int, code: int
) -> None:
    def end(run: Run) -> None:
        signal.raise_signal(signal.SIGTERM)
        run.learner.ended_at = Progress(frames)

    supervised(end)
    assert learn(file, "--total-env-frames", 10, "--local-envservers", 0) == code


def test_a_run_says_what_is_normal_and_where_it_is_and_leaves_its_configuration(
    file: Path, log: pytest.LogCaptureFixture, supervised: Supervise
) -> None:
    endpoints: list[str] = []
    supervised(lambda run: endpoints.append(run.inference.endpoint))
    run_dir = file.parent / "run"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text('{"env_frames": 900}\n')
    assert learn(file, "--note", "Flat for a while.", "--local-envservers", 0) == 0
    assert f"listening on {endpoints[0]}, run in {run_dir}" in log.messages
    assert "Flat for a while." in log.messages
    assert tomllib.loads((run_dir / "config.toml").read_text())["note"] == "Flat for a while."
    # What a killed attempt has left is set aside before the run.
    assert not (run_dir / "metrics.jsonl").exists()
    assert (run_dir / "earlier" / "1" / "metrics.jsonl").exists()
    # The next start finds its lock there, and none held.
    assert (run_dir / "lock").exists()
    with hold_run(run_dir):
        pass


def test_servers_are_stopped_however_the_run_ends(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    supervised: Supervise,
) -> None:  # fmt: skip
    stopped: list[float] = []

    def fail(run: Run) -> None:
        raise Diverged("the loss is nan")

    supervised(fail)
    monkeypatch.setattr(LocalServers, "stop", lambda self, timeout_s: stopped.append(timeout_s))
    assert learn(file, "--local-envservers", 0) == 77
    assert stopped == [5.0]
    assert capsys.readouterr().err.endswith("seed-learner: the loss is nan\n")


def test_an_error_in_an_authors_function_says_whose_it_is(
    file: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    supervised: Callable[[Callable[[Run], None]], None],
) -> None:  # fmt: skip
    supervised(lambda run: vtrace.loss(None, None, None, None))  # type: ignore[arg-type]
    monkeypatch.setattr(LocalServers, "stop", lambda self, timeout_s: None)
    with pytest.raises(AttributeError):
        learn(file, "--local-envservers", 0)
    said = "algorithm.name = 'vtrace': loss raises AttributeError: "
    (line,) = [line for line in log.messages if line.startswith(said)]
    assert f" at {vtrace.__file__}:" in line


def test_signals_may_have_been_taken_over_already(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Signals()
    monkeypatch.setattr(main, "_train", lambda config, signals, lock: 5 * (signals is mine))
    assert main.main([str(file), "--run-dir", str(file.parent / "run")], mine) == 5
