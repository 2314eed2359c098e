"""Messages through the central process's socket, one at a time."""

from __future__ import annotations

import socket as tcp
import time
from collections.abc import Iterator

import pytest
import zmq

from seed.config.schema import ConfigError
from seed.transport import sockets
from seed.transport.sockets import bind, drain, receive, send
from seed.wire.limits import MAX_GROUPS, MOST_FRAMES
from tools.chaos.proxy import FaultProxy

PATIENCE_S = 300
# What ZMTP 3 begins with: signature, version, the mechanism NULL, a client.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    # A name is free again only some time after its socket was closed.
    address = f"inproc://{request.node.name}"
    router = bind(address, 10**6)
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(address)
    yield router, dealer
    dealer.close(0)
    router.close(0)


def test_a_message_arrives_frame_by_frame(pair: tuple[zmq.Socket[bytes], ...]) -> None:
    router, dealer = pair
    assert receive(router) is None
    frames = [b"header", b"", bytes(range(256)) * 100, b"\x07" * 4096, b"last"]
    dealer.send_multipart(frames)
    dealer.send_multipart([b"next"])
    message = receive(router)
    assert message is not None
    assert [bytes(frame) for frame in message[1]] == frames
    # Only what is large stays where it is.
    assert [type(frame) for frame in message[1]] == [bytes, bytes, memoryview, bytes, bytes]
    assert receive(router) == (message[0], [b"next"], "")
    assert receive(router) is None


def test_an_answer_goes_to_its_connection(pair: tuple[zmq.Socket[bytes], ...]) -> None:
    router, dealer = pair
    dealer.send(b"hello")
    message = receive(router)
    assert message is not None
    assert send(router, message[0], [b"header", memoryview(b"actions")])
    assert send(router, message[0], [b"goodbye"])
    assert dealer.recv_multipart() == [b"header", b"actions"]
    assert dealer.recv_multipart() == [b"goodbye"]


def test_nobody_there_is_no_error(pair: tuple[zmq.Socket[bytes], ...]) -> None:
    assert not send(pair[0], b"nobody", [b"header", b"actions"])
    # Nothing of it was left behind.
    pair[1].send(b"hello")
    message = receive(pair[0])
    assert message is not None
    assert send(pair[0], message[0], [b"welcome"])
    assert pair[1].recv_multipart() == [b"welcome"]


def test_a_frame_that_is_too_large_ends_its_connection_alone() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    router = bind("tcp://127.0.0.1:*", 1000)
    good, bad = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    monitor = bad.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for dealer in (good, bad):
        dealer.connect(router.get_string(zmq.LAST_ENDPOINT))
    bad.send(bytes(1001))
    assert monitor.poll(1000 * PATIENCE_S)
    good.send(bytes(1000))
    assert router.poll(1000 * PATIENCE_S)
    message = receive(router)
    assert message is not None
    assert message[1] == [bytes(1000)]
    bad.disable_monitor()
    for socket in (monitor, good, bad, router):
        socket.close(0)


# A refused ACTIONS message ends its session.
def test_every_group_of_a_connection_can_be_answered_at_once() -> None:
    router = bind("tcp://127.0.0.1:*", 10**6)
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(router.get_string(zmq.LAST_ENDPOINT))
    for _ in range(20):
        for _ in range(MAX_GROUPS):
            dealer.send(b"step")
        identities: list[bytes] = []
        while len(identities) < MAX_GROUPS:
            assert router.poll(1000 * PATIENCE_S)
            message = receive(router)
            assert message is not None
            identities.append(message[0])
        # One more, so that ZeroMQ's count of what has gone out lags behind in every round anew.
        identities.append(identities[0])
        assert all(send(router, identity, [b"actions"]) for identity in identities)
        for _ in identities:
            dealer.recv()
    dealer.close(0)
    router.close(0)


def test_an_endless_message_is_thrown_away_piece_by_piece(
    pair: tuple[zmq.Socket[bytes], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_DRAINED_AT_ONCE", 10)
    router, dealer = pair
    dealer.send_multipart([b"x"] * (MOST_FRAMES + 25))
    dealer.send_multipart([b"y"] * (MOST_FRAMES + 1))
    dealer.send(b"next")
    for letter, drains in ((b"x", [False, False, True]), (b"y", [True])):
        message = receive(router)
        assert message is not None
        assert message[1] == [letter] * (MOST_FRAMES + 1)
        assert [drain(router) for _ in drains] == drains
    message = receive(router)
    assert message is not None
    assert message[1] == [b"next"]


def test_silence_is_noticed_within_the_time_that_is_promised() -> None:
    router = bind("tcp://127.0.0.1:*", 1000)
    heartbeat_ms = int(router.getsockopt(zmq.HEARTBEAT_IVL))
    timeout_ms = int(router.getsockopt(zmq.HEARTBEAT_TIMEOUT))
    peers_timeout_ms = int(router.getsockopt(zmq.HEARTBEAT_TTL))
    assert heartbeat_ms > 0
    # A heartbeat that comes late cuts nobody.
    assert 2 * heartbeat_ms < timeout_ms <= 20_000 - heartbeat_ms
    assert 2 * heartbeat_ms < peers_timeout_ms <= 20_000
    assert router.getsockopt(zmq.HANDSHAKE_IVL) == 5_000
    router.close(0)


def hasten(monkeypatch: pytest.MonkeyPatch, options: tuple[zmq.SocketOption, ...]) -> None:
    """Shortens these times of sockets to come to a twentieth of what is shipped."""
    for option in options:
        monkeypatch.setitem(
            sockets._SILENCE_OPTIONS, option, sockets._SILENCE_OPTIONS[option] // 20
        )


def test_a_peer_that_falls_silent_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch, (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL))
    router = bind("tcp://127.0.0.1:*", 1000)
    port = int(router.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    dealer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    with FaultProxy("127.0.0.1", port, count=1) as proxy:
        (link,) = proxy.links
        dealer.connect(link.address)
        dealer.send(b"hello")
        assert router.poll(PATIENCE_S * 1000)
        proxy.call(lambda: link.half_open("learner"))
        deadline_s = time.monotonic() + PATIENCE_S
        while not link.noticed_s:
            assert time.monotonic() < deadline_s, "a silent peer was never cut"
            time.sleep(0.01)
        dealer.close(0)
        router.close(0)


@pytest.mark.parametrize("said", [b"", GREETING[:12], GREETING], ids=["none", "part", "greeting"])
def test_a_stranger_who_says_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    hasten(monkeypatch, (zmq.HANDSHAKE_IVL,))
    router = bind("tcp://127.0.0.1:*", 1000)
    port = int(router.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    with tcp.create_connection(("127.0.0.1", port)) as stranger:
        # ZeroMQ's own time is 30 s.
        stranger.settimeout(PATIENCE_S)
        stranger.sendall(said)
        while stranger.recv(4096):
            pass
    router.close(0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The usual address, which another process has."""
    with tcp.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setattr("seed.config.addresses.USUAL", address)
        yield address


def test_a_second_run_on_a_machine_takes_a_free_port(
    taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with bind("auto", 1000) as router:
        endpoint = router.get_string(zmq.LAST_ENDPOINT)
    assert endpoint.startswith("tcp://127.0.0.1:")
    assert endpoint != taken
    assert [line.partition(", ")[0] for line in caplog.messages] == [f"{taken} is in use"]


def test_alone_on_a_machine_a_run_has_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as other:
        usual = f"tcp://127.0.0.1:{other.getsockname()[1]}"
    monkeypatch.setattr("seed.config.addresses.USUAL", usual)
    with bind("auto", 1000) as router:
        assert router.get_string(zmq.LAST_ENDPOINT) == usual


# Environment servers elsewhere connect to it, and would find another run there.
def test_a_port_that_was_asked_for_is_never_another_one(taken: str) -> None:
    with pytest.raises(ConfigError) as refused:
        bind(taken, 1000)
    said = str(refused.value)
    assert said.startswith(f"inference.address = {taken!r}: cannot be bound (Address already in")
    assert said.endswith('a free one with --inference.address "tcp://127.0.0.1:*"')


def test_a_host_that_is_not_this_one_needs_no_other_port() -> None:
    with pytest.raises(ConfigError) as refused:
        bind("tcp://192.0.2.1:5", 1000)
    assert "free" not in str(refused.value)
