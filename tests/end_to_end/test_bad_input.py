"""Mistakes of a user end in one clear line and a non-zero exit code, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from seed.wire import codec, messages
from tests.end_to_end.commands import Command, Start

CONFIG = "configs/catch_vtrace.toml"


def _assert_clear(command: Command, code: int, *words: str) -> None:
    assert command.wait() == code, command.text
    assert "Traceback" not in command.text
    for word in words:
        assert word in command.text


# One for each place where something is refused; all are in tests/seed/test_refusals.py.
REFUSED = [
    ("[learner]\nbatch_size = '3'", (), ("learner.batch_size = '3'", "an integer")),
    (None, ("--seed", "abc"), ("--seed", "abc", "expected an integer")),
    (None, ("--inference.device", "cuda:99"), ("inference.device", "cuda:99")),
    (None, ("--resume", "no/such/checkpoint"), ("no/such/checkpoint",)),
]
MORE_REFUSED = [
    ("not toml", (), ("not valid TOML",)),
    (None, ("--inference.address", "tcp://0.0.0.0:5555"), ("0.0.0.0", "seed-keys")),
    (None, ("--algorithm.name", "no_such"), ("algorithm.name = 'no_such'",)),
    (None, ("--environment.id", "no.such.module:make"), ("no.such.module",)),
    (None, ("--inference.secret-key", "no.key", "--inference.allowed-keys", "."), ("no.key",)),
]


@pytest.mark.parametrize(
    ("toml", "overrides", "words"),
    [*REFUSED, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_REFUSED)],
)
def test_learner(
    start: Start, tmp_path: Path, toml: str | None, overrides: tuple[str, ...],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    path = Path(CONFIG)
    if toml is not None:
        path = tmp_path / "bad.toml"
        path.write_text(toml)
    command = start("seed-learner", path, "--run-dir", tmp_path / "run", *overrides)
    _assert_clear(command, 78 if "--resume" in overrides else 2, *words)
    # On a busy machine it takes long to find out, which is said.
    said = [line for line in command.text.splitlines() if "making one environment" not in line]
    assert len(said) == 1, command.text
    assert not (tmp_path / "run").exists()


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
