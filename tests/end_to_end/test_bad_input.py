"""Mistakes of a user end in one clear line and a non-zero exit code, without a traceback."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import zmq

from seed.wire import codec, messages
from tests.end_to_end.commands import PATIENCE_S, Command, Start

CONFIG = "configs/catch_vtrace.toml"


def _assert_clear(command: Command, code: int, *words: str) -> None:
    assert command.wait() == code, command.text
    assert "Traceback" not in command.text
    for word in words:
        assert word in command.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("--environment.kind", "atari", "--environment.id", "ping_pong"), ("ping_pong", "pong")),
        (("--environment.kind", "gymnasium", "--environment.id", "CartPoel-v1"), ("CartPoel",)),
        (("--environment.id", "no.such.module:make"), ("no.such.module",)),
        (("--inference.address", "tcp://0.0.0.0:5555"), ("0.0.0.0", "seed-keys")),
        (("--inference.secret-key", "no.key", "--inference.allowed-keys", "."), ("no.key",)),
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
    # On a busy machine it takes long to find out, which is said.
    said = [line for line in command.text.splitlines() if "making one environment" not in line]
    assert len(said) == 1, command.text


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


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("--seed", "abc"), ("--seed", "abc", "expected an integer")),
        (("--learner.batch-siz", "3"), ("--learner.batch-siz", "mean --learner.batch-size?")),
        (("--algorithm.discount", "1.5"), ("discount = 1.5", "from 0 to 1")),
        (("--algorithm.name", "no_such"), ("algorithm.name = 'no_such'",)),
    ],
)
def test_overrides(
    start: Start, tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    command = start("seed-learner", CONFIG, "--run-dir", tmp_path / "run", *overrides)
    _assert_clear(command, 2, *words)
    assert command.text.count("\n") == 1, command.text


def test_run_directory_that_cannot_be(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = start("seed-learner", CONFIG, "--run-dir", tmp_path / "file" / "run",
                    "--inference.address", "tcp://127.0.0.1:*")  # fmt: skip
    _assert_clear(command, 2, "run_dir", "Not a directory")


def test_address_that_cannot_be(start: Start) -> None:
    address = "ipc:///tmp/" + "a" * 200
    command = start("seed-envserver", "--connect", address, "--num-envs", 1)
    _assert_clear(command, 2, address)


def test_environment_server_of_another_protocol_version(start: Start, tmp_path: Path) -> None:
    """The learner refuses a HELLO of another version with a reason, and goes on."""
    learner = start("seed-learner", CONFIG, "--run-dir", tmp_path / "run", "--local-envservers", 0,
                    "--inference.address", "tcp://127.0.0.1:*")  # fmt: skip
    found = re.search(r"tcp://\S+\d", learner.wait_for("listening on"))
    assert found is not None
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(found.group())
    dealer.send_multipart(codec.encode(messages.Hello(1, (1,), "from the future", protocol=99)))
    assert dealer.poll(int(1000 * PATIENCE_S))
    refusal = codec.decode(dealer.recv_multipart())
    dealer.close(linger=0)
    assert isinstance(refusal, messages.Refusal)
    assert not refusal.retry
    assert "protocol 99" in refusal.reason
    assert learner.process.poll() is None


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
    assert isinstance(codec.decode(frames), messages.Hello)
    refusal = messages.Refusal("the learner speaks protocol 99", retry=False)
    router.send_multipart([identity, *codec.encode(refusal)])
    _assert_clear(command, 2, "the learner speaks protocol 99")
    router.close(linger=0)


def test_evaluation_of_nothing(start: Start, tmp_path: Path) -> None:
    _assert_clear(start("seed-eval", tmp_path / "nothing"), 2, "nothing")
