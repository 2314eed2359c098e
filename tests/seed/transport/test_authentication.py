"""Keys at the learner's socket: who gets in, whose messages are read, and what a failure does."""

from __future__ import annotations

import os
import threading
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
    dealer.step(0, [3, 4])
    assert dealer.actions(0) == [3, 4]
    # Refusals, too, come from the learner alone, and end nothing.
    dealer.expect_silence()
    dealer.step(1, [3, 4])
    assert dealer.actions(1) == [6, 8]


def test_nobody_else_is_heard(served: Central) -> None:
    endpoint = served.inference.endpoint
    assert handshake(endpoint, STRANGER, LEARNER.public) == "HANDSHAKE_FAILED_AUTH"
    # One who takes somebody else for the learner, and one without any key.
    assert handshake(endpoint, GOOD, STRANGER.public) != "HANDSHAKE_SUCCEEDED"
    assert handshake(endpoint, None, "") != "HANDSHAKE_SUCCEEDED"
    # A key that is known, but without its secret.
    assert handshake(endpoint, KeyPair(GOOD.public, STRANGER.secret), LEARNER.public) not in (
        "HANDSHAKE_SUCCEEDED",
        None,
    )
    dealer = served.connect(GOOD)
    dealer.hello(1)
    assert served.inference.num_envs == 1
    assert served.inference.messages_refused == 0
    assert served.inference.messages_dropped == 0


def test_a_revoked_key_is_cut_off_while_it_is_connected(served: Central, folder: Path) -> None:
    revoked, other = served.connect(GOOD), served.connect(OTHER)
    revoked.hello(2)
    other.hello(2, server_id=2)
    (folder / "good.pub").unlink()
    assert revoked.receive() == messages.Goodbye(revoked.session, "the key is not allowed any more")
    wait_for(lambda: served.inference.num_envs == 2)
    # Nothing that it says from now on is decoded, let alone answered.
    dropped = served.inference.messages_dropped
    revoked.send(messages.Hello(1, (1,), "again"))
    revoked.socket.send_multipart([b"\xc1"] * 3)
    wait_for(lambda: served.inference.messages_dropped == dropped + 2)
    assert not revoked.socket.poll(0)
    assert served.inference.messages_refused == 0
    other.step(0, [1, 2])
    assert other.actions(0) == [1, 2]
    assert handshake(served.inference.endpoint, GOOD, LEARNER.public) == "HANDSHAKE_FAILED_AUTH"


def test_a_key_may_be_allowed_while_the_learner_runs(served: Central, folder: Path) -> None:
    endpoint = served.inference.endpoint
    assert handshake(endpoint, STRANGER, LEARNER.public) == "HANDSHAKE_FAILED_AUTH"
    write_pair(folder / "late", STRANGER)
    assert served.inference.authentication is not None
    wait_for(lambda: STRANGER.public in served.inference.authentication.allowed.names)  # type: ignore[union-attr]
    served.connect(STRANGER).hello(1)


# Its own reconnection takes a session over; that of another key must not.
def test_no_other_key_takes_a_session_over(served: Central) -> None:
    victim, thief = served.connect(GOOD), served.connect(OTHER)
    victim.hello(2)
    victim.step(0, [1, 2])
    assert victim.actions(0) == [1, 2]
    thief.send(messages.Hello(1, (2,), "thief"))
    refusal = thief.refusal()
    assert "another key" in refusal.reason
    assert not refusal.retry
    thief.session = victim.session
    thief.step(1, [9, 9])
    assert thief.refusal().retry
    thief.send(messages.Goodbye(victim.session, "away with it"))
    thief.expect_silence()
    victim.step(1, [1, 2])
    assert victim.actions(1) == [2, 4]
    assert served.inference.num_envs == 2
    again = served.connect(GOOD)
    again.hello(2)
    assert served.inference.num_envs == 2


def test_a_dead_authenticator_lets_nobody_in_and_ends_the_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authentication = Authentication(LEARNER, AllowList(folder))
    failed = threading.Event()

    async def fail(request: list[bytes]) -> None:
        failed.set()
        raise RuntimeError("the authenticator is dead")

    monkeypatch.setattr(authentication._handler, "handle_zap_message", fail)
    def serve() -> None:
        with central(authentication=authentication) as served:
            outcome = handshake(served.inference.endpoint, GOOD, LEARNER.public, wait_ms=300_000)
            assert outcome != "HANDSHAKE_SUCCEEDED"
            assert failed.is_set()
            assert served.threads.stop.wait(300)

    with pytest.raises(RuntimeError, match="authenticator is dead"):
        serve()


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


def test_its_thread_says_where_it_hangs(
    served: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    authentication = served.inference.authentication
    assert authentication is not None
    phases, released, hanging = authentication.phases, threading.Event(), threading.Event()
    signs = phases.heartbeats
    wait_for(lambda: phases.heartbeats > signs + 5)

    def hang() -> None:
        hanging.set()
        released.wait(300)

    monkeypatch.setattr(authentication.allowed, "refresh", hang)
    assert hanging.wait(300)
    try:
        assert phases.name == "refreshing"
    finally:
        released.set()


def test_an_unchanged_folder_is_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = AllowList(folder)
    monkeypatch.setattr(module, "read_public", lambda path: pytest.fail("it was read"))
    allowed.refresh()


def test_a_configuration_without_keys_asks_for_none() -> None:
    assert make_authentication(InferenceConfig()) is None


def test_keys_that_cannot_be_used_are_refused_by_field(tmp_path: Path) -> None:
    secret, public = write_pair(tmp_path / "learner", LEARNER)

    def make(secret_key: Path, allowed_keys: Path) -> None:
        make_authentication(
            InferenceConfig(secret_key=str(secret_key), allowed_keys=str(allowed_keys))
        )

    with pytest.raises(ConfigError, match=r"inference.secret_key .* found a public one"):
        make(public, tmp_path)
    with pytest.raises(ConfigError, match=r"inference.allowed_keys .*No such file"):
        make(secret, tmp_path / "nowhere")
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"inference.allowed_keys .*mode 0777\): chmod 755"):
        make(secret, tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "torn.pub").write_text("public abc")
    with pytest.raises(ConfigError, match=r"inference.allowed_keys .*torn.pub"):
        make(secret, tmp_path)
    (tmp_path / "torn.pub").unlink()
    public.chmod(0o666)
    with pytest.raises(ConfigError, match=r"inference.allowed_keys .*learner.pub: everyone may"):
        make(secret, tmp_path)
    public.chmod(0o644)
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match=r"inference.secret_key .*chmod 600"):
        make(secret, tmp_path)


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
