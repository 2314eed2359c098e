"""Keys at the learner's socket: who gets in, whose messages are read, and what a failure does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from seed.config.schema import ConfigError, InferenceConfig
from seed.inference import loop as inference
from seed.transport import authentication as module
from seed.transport.authentication import AllowList, Authentication, hand_over, make_authentication
from seed.wire import messages
from seed.wire.keys import KeyPair, read_pair, read_public, write_pair
from tests.seed.central import Central, central
from tests.seed.handshakes import handshake
from tests.waiting import wait_for

LEARNER, GOOD, OTHER, STRANGER = (KeyPair.new() for _ in range(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, pair in (("good", GOOD), ("other", OTHER)):
        secret, _ = write_pair(tmp_path / name, pair)
        secret.unlink()
    return tmp_path


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Central]:
    monkeypatch.setattr(module, "_REFRESH_S", 0.01)
    monkeypatch.setattr(module, "_POLL_MS", 10)
    monkeypatch.setattr(inference, "_HOUSEKEEPING_S", 0.01)
    with central(authentication=Authentication(LEARNER, AllowList(folder))) as served:
        yield served


def test_an_allowed_key_is_served(served: Central) -> None:
    dealer = served.connect(GOOD)
    dealer.hello(2)
    assert dealer.exchange(0, [3, 4]) == [3, 4]
    # Refusals, too, come from the learner alone, and end nothing.
    dealer.expect_silence()
    assert dealer.exchange(1, [3, 4]) == [6, 8]


def test_nobody_else_is_heard(served: Central) -> None:
    endpoint = served.inference.endpoint
    assert handshake(endpoint, STRANGER, LEARNER.public) == "HANDSHAKE_FAILED_AUTH"
    # A key that is known, but without its secret.
    thief = handshake(endpoint, KeyPair(GOOD.public, STRANGER.secret), LEARNER.public)
    assert thief not in ("HANDSHAKE_SUCCEEDED", None)
    # One who takes somebody else for the learner, and one without any key.
    assert handshake(endpoint, GOOD, STRANGER.public) != "HANDSHAKE_SUCCEEDED"
    assert handshake(endpoint, None, "") != "HANDSHAKE_SUCCEEDED"
    dealer = served.connect(GOOD)
    dealer.hello(1)
    assert served.inference.num_envs == 1
    assert served.inference.messages_refused == 0
    assert served.inference.messages_dropped == 0


# What else becomes of them is decided in `seed.inference.sessions`.
def test_keys_are_revoked_and_allowed_while_the_learner_runs(
    served: Central, folder: Path
) -> None:
    endpoint = served.inference.endpoint
    revoked, other = served.connect(GOOD), served.connect(OTHER)
    revoked.hello(2)
    other.hello(2, server_id=2)
    assert handshake(endpoint, STRANGER, LEARNER.public) == "HANDSHAKE_FAILED_AUTH"
    (folder / "good.pub").unlink()
    write_pair(folder / "late", STRANGER)
    assert revoked.receive() == messages.Goodbye(revoked.session, "the key is not allowed any more")
    revoked.send(messages.Hello(1, (1,), "again"))
    wait_for(lambda: served.inference.messages_dropped == 1)
    assert handshake(endpoint, GOOD, LEARNER.public) == "HANDSHAKE_FAILED_AUTH"
    served.connect(STRANGER).hello(1)
    assert other.exchange(0, [1, 2]) == [1, 2]
    assert not revoked.socket.poll(0)


# It has its place but no thread; then not even that.
@pytest.mark.parametrize("closed", [False, True])
def test_nobody_is_let_in_without_an_answer(folder: Path, closed: bool) -> None:
    authentication = Authentication(LEARNER, AllowList(folder))
    router = authentication.context.socket(zmq.ROUTER)
    authentication.protect(router)
    router.bind("tcp://127.0.0.1:*")
    if closed:
        authentication._handler.stop()
    endpoint = router.get_string(zmq.LAST_ENDPOINT)
    assert handshake(endpoint, GOOD, LEARNER.public, 500) != "HANDSHAKE_SUCCEEDED"
    assert not router.poll(0)
    router.close(linger=0)
    authentication._handler.stop()
    authentication.context.term()


def test_a_configuration_without_keys_asks_for_none() -> None:
    assert make_authentication(InferenceConfig()) is None


@pytest.mark.parametrize(
    ("secret", "folder", "reason"),
    [
        ("learner.pub", ".", r"inference.secret_key .* found a public one"),
        ("learner.key", "nowhere", r"inference.allowed_keys .*No such file"),
        ("learner.key", "torn", r"inference.allowed_keys .*torn.pub"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_by_field(
    tmp_path: Path, secret: str, folder: str, reason: str
) -> None:
    write_pair(tmp_path / "learner", LEARNER)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "torn.pub").write_text("public abc")
    config = InferenceConfig(
        secret_key=str(tmp_path / secret), allowed_keys=str(tmp_path / folder)
    )
    with pytest.raises(ConfigError, match=reason):
        make_authentication(config)


def test_local_servers_get_a_key_without_a_file(folder: Path) -> None:
    authentication = Authentication(LEARNER, AllowList(folder))
    files = hand_over(authentication)
    # As often as servers are started.
    for _ in range(2):
        pair, learner_key = (
            read_pair(Path(f"/dev/fd/{files[0]}")), read_public(Path(f"/dev/fd/{files[1]}")),
        )  # fmt: skip
        assert authentication.allowed.names[pair.public] == "local"
        assert learner_key == LEARNER.public
    assert not any(os.get_inheritable(file) for file in files)
    for file in files:
        os.close(file)
    authentication._handler.stop()
    authentication.context.term()
