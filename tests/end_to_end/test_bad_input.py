"""Mistakes of a user end in one clear line and a non-zero exit code, without a traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import zmq

from seed import wire
from tests.end_to_end.commands import Command, Start

CONFIG = "configs/catch_vtrace.toml"


def _assert_clear(command: Command, code: int, *words: str) -> None:
    assert command.wait(60) == code, command.text
    assert "Traceback" not in command.text
    for word in words:
        assert word in command.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("--environment.kind", "atari", "--environment.id", "ping_pong"), ("ping_pong", "pong")),
        (("--environment.kind", "gymnasium", "--environment.id", "CartPoel-v1"), ("CartPoel",)),
        (("--environment.id", "no.such.module:make"), ("no.such.module",)),
        (("--inference.address", "tcp://0.0.0.0:5555"), ("0.0.0.0", "insecure_no_auth")),
        (("--inference.address", "localhost"), ("localhost", "tcp://HOST:PORT")),
        (("--network.torso", "nature"), ("network", "torso", "nature")),
        (("--inference.device", "cuda:99"), ("inference.device", "cuda:99")),
        (("--learner.batch-size", "0"), ("learner.batch_size = 0", "at least 1")),
        (("--resume", "no/such/checkpoint"), ("no/such/checkpoint",)),
    ],
)
def test_learner(
    start: Start, tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    command = start("seed-learner", CONFIG, "--run-dir", tmp_path / "run", *overrides)
    _assert_clear(command, 78 if "--resume" in overrides else 2, *words)
    assert command.text.count("\n") == 1, command.text


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[learner]\nbatch_siz = 3", ("learner.batch_siz = 3", "batch_size")),
        ("[learner]\nbatch_size = '3'", ("learner.batch_size = '3'", "an integer")),
        ("[algorithm]\nname = 'no_such'", ("algorithm.name = 'no_such'",)),
        ("[algorithm]\ndiscuont = 1", ("algorithm.discuont = 1", "discount")),
        ("not toml", ("not valid TOML",)),
    ],
)
def test_config_file(start: Start, tmp_path: Path, toml: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(toml)
    command = start("seed-learner", path, "--run-dir", tmp_path / "run")
    _assert_clear(command, 2, *words)
    assert command.text.count("\n") == 1, command.text


def test_busy_port(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        command = start("seed-learner", CONFIG, "--run-dir", tmp_path / "run",
                        "--inference.address", address)  # fmt: skip
        _assert_clear(command, 2, address, "in use")


def test_learner_that_is_not_there(start: Start) -> None:
    command = start("seed-envserver", "--connect", "tcp://127.0.0.1:1", "--num-envs", 1,
                    "--wait-s", 1)  # fmt: skip
    _assert_clear(command, 1, "tcp://127.0.0.1:1")


def test_learner_of_another_protocol_version(start: Start) -> None:
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    command = start("seed-envserver", "--connect", f"tcp://127.0.0.1:{port}", "--num-envs", 1)
    identity, *frames = router.recv_multipart()
    assert isinstance(wire.decode(frames), wire.Hello)
    refusal = wire.Refusal("the learner speaks protocol 99", retry=False)
    router.send_multipart([identity, *wire.encode(refusal)])
    _assert_clear(command, 2, "the learner speaks protocol 99")
    router.close(linger=0)


def test_evaluation_of_nothing(start: Start, tmp_path: Path) -> None:
    _assert_clear(start("seed-eval", tmp_path / "nothing"), 2, "nothing")
