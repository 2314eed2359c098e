"""What a person is told: how a run gets environments, and which commands come next."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seed.config.schema import Config, InferenceConfig
from seed.run import hints
from seed.run.hints import Beginning, how_to_connect, what_comes_next

CONFIG = Config()
LOCAL = "tcp://127.0.0.1:5555"
HOW = "seed-envserver --connect tcp://127.0.0.1:5555 --num-envs 32"


def test_how_to_start_a_server_is_said_once_and_later_where_there_are_local_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    beginning = Beginning(CONFIG, LOCAL, 0, said.append)
    assert said == []
    for _ in range(3):
        beginning.check(0, 0)
    expected = [f"no environment server is connected; one is started with: {HOW}"]
    assert said == expected
    Beginning(CONFIG, LOCAL, 2, said.append).check(0, 0)
    assert said == expected
    monkeypatch.setattr(hints, "_NOBODY_S", 0.0)
    Beginning(CONFIG, LOCAL, 2, said.append).check(0, 0)
    assert said == 2 * expected


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        # Environments are being made until the first rows come.
        ([(0, 0), (8, 0), (16, 0), (16, 16), (0, 16)], ["making environments"]),
        # Of those that come back after their rows nothing is said.
        ([(8, 8), (0, 8), (8, 8), (0, 8)], []),
    ],
)
def test_what_connects_is_being_made_until_its_first_rows(
    caplog: pytest.LogCaptureFixture, seen: list[tuple[int, int]], words: list[str]
) -> None:
    caplog.set_level("INFO")
    beginning = Beginning(CONFIG, LOCAL, 1, pytest.fail)
    for num_envs, env_steps in seen:
        beginning.check(num_envs, env_steps)
    assert caplog.messages == words


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        (LOCAL, LOCAL),
        ("ipc:///tmp/seed", "ipc:///tmp/seed"),
        ("tcp://10.0.0.1:77", "tcp://10.0.0.1:77"),
        # Nobody can connect to "everywhere".
        ("tcp://0.0.0.0:77", f"tcp://{socket.gethostname()}:77"),
        ("tcp://[::]:77", f"tcp://{socket.gethostname()}:77"),
    ],
)
def test_a_server_is_started_with_an_address_that_can_be_reached(
    endpoint: str, address: str
) -> None:
    how = f"seed-envserver --connect {address} --num-envs 32"
    assert how_to_connect(CONFIG, endpoint) == how
    config = replace(CONFIG, inference=InferenceConfig(secret_key="a.key", allowed_keys="keys"))
    assert how_to_connect(config, endpoint) == f"{how} --key WORKER.key --learner-key LEARNER.pub"


@pytest.mark.parametrize(
    ("resume", "complete", "going_on"),
    [
        ("auto", True, None),
        ("auto", False, "'configs/a b.toml' --seed 3"),
        # With a start of its own, the next one would refuse the older checkpoint.
        ("never", False, "runs/x/config.toml"),
        ("runs/y/checkpoints/frames-1-updates-1", False, "runs/x/config.toml"),
    ],
)
def test_a_run_can_be_gone_on_with_until_it_is_complete_and_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resume: str, complete: bool,
    going_on: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["seed-learner"])
    monkeypatch.chdir(tmp_path)
    # Paths are as short as the working directory lets them be.
    for run_dir, shown in (("runs/x", "runs/x"), (str(tmp_path / "runs" / "x"), "runs/x"),
                           ("/elsewhere", "/elsewhere")):  # fmt: skip
        config = replace(CONFIG, run_dir=run_dir, resume=resume)
        lines = what_comes_next(config, ["configs/a b.toml", "--seed", "3"], complete=complete)
        assert lines[-1] == f"to see it play: seed-eval {shown}"
        expected = [f"to go on: seed-learner {going_on}"] if going_on else []
        assert lines[:-1] == [line.replace("runs/x", shown) for line in expected]


# As `make train` calls it.
@pytest.mark.parametrize("on_path", [True, False])
def test_commands_are_as_the_shell_finds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_path: bool
) -> None:
    program = tmp_path / "seed-learner"
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(tmp_path) if on_path else "")
    start = "" if on_path else f"{tmp_path}/"
    assert what_comes_next(replace(CONFIG, run_dir="r"), ["c.toml"], complete=False) == [
        f"to go on: {start}seed-learner c.toml", f"to see it play: {start}seed-eval r"
    ]  # fmt: skip
