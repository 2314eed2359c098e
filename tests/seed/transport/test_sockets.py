"""Messages through the central process's socket, one at a time."""

from __future__ import annotations

import contextlib
import socket as tcp
from collections.abc import Iterator
from typing import TypeAlias

import pytest
import zmq

from seed.config.schema import ConfigError
from seed.transport import sockets
from seed.transport.sockets import bind, drain, receive, send
from seed.wire import messages
from seed.wire.limits import MAX_GROUPS, MOST_FRAMES
from tests.waiting import wait_for
from tools.chaos.proxy import FaultProxy

PATIENCE_MS = 300_000
# What ZMTP 3 begins with: signature, version, the mechanism NULL, a client.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
Socket: TypeAlias = "zmq.Socket[bytes]"


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Socket, Socket]]:
    # A name is free again only some time after its socket was closed.
    address = f"inproc://{request.node.name}"
    with bind(address, 10**6) as router, dealer_to(address) as dealer:
        yield router, dealer


@contextlib.contextmanager
def dealer_to(address: str) -> Iterator[Socket]:
    dealer: Socket = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(address)
    yield dealer
    dealer.close(0)


@contextlib.contextmanager
def router_and_port() -> Iterator[tuple[Socket, int]]:
    with bind("tcp://127.0.0.1:*", 1000) as router:
        yield router, int(router.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def received(router: Socket) -> tuple[bytes, list[messages.Frame]]:
    """The message that has come, or will: its identity and frames."""
    assert router.poll(PATIENCE_MS)
    message = receive(router)
    assert message is not None
    return message[0], message[1]


def test_a_message_arrives_frame_by_frame(pair: tuple[Socket, Socket]) -> None:
    router, dealer = pair
    assert receive(router) is None
    frames = [b"header", b"", bytes(range(256)) * 100, b"\x07" * 4096, b"last"]
    dealer.send_multipart(frames)
    dealer.send_multipart([b"next"])
    identity, arrived = received(router)
    assert [bytes(frame) for frame in arrived] == frames
    # Only what is large stays where it is.
    assert [type(frame) for frame in arrived] == [bytes, bytes, memoryview, bytes, bytes]
    assert receive(router) == (identity, [b"next"], "")
    assert receive(router) is None


def test_an_answer_goes_to_its_connection_and_none_to_nobody(pair: tuple[Socket, Socket]) -> None:
    router, dealer = pair
    dealer.send(b"hello")
    identity, _ = received(router)
    assert not send(router, b"nobody", [b"header", b"actions"])
    # Nothing of it was left behind.
    assert send(router, identity, [b"header", memoryview(b"actions")])
    assert send(router, identity, [b"goodbye"])
    assert dealer.recv_multipart() == [b"header", b"actions"]
    assert dealer.recv_multipart() == [b"goodbye"]


def test_a_frame_that_is_too_large_ends_its_connection_alone() -> None:
    with router_and_port() as (router, port):
        address = f"tcp://127.0.0.1:{port}"
        with dealer_to(address) as good, dealer_to(address) as bad:
            with bad.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                bad.send(bytes(1001))
                assert monitor.poll(PATIENCE_MS)
                bad.disable_monitor()
            good.send(bytes(1000))
            assert received(router)[1] == [bytes(1000)]


# A refused ACTIONS message ends its session.
def test_every_group_of_a_connection_can_be_answered_at_once() -> None:
    with router_and_port() as (router, port), dealer_to(f"tcp://127.0.0.1:{port}") as dealer:
        for _ in range(20):
            for _ in range(MAX_GROUPS):
                dealer.send(b"step")
            identities = [received(router)[0] for _ in range(MAX_GROUPS)]
            # One more, so that ZeroMQ's count of what has gone out lags behind in every round anew.
            identities.append(identities[0])
            assert all(send(router, identity, [b"actions"]) for identity in identities)
            for _ in identities:
                dealer.recv()


def test_an_endless_message_is_thrown_away_piece_by_piece(
    pair: tuple[Socket, Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_DRAINED_AT_ONCE", 10)
    router, dealer = pair
    dealer.send_multipart([b"x"] * (MOST_FRAMES + 25))
    dealer.send_multipart([b"y"] * (MOST_FRAMES + 1))
    dealer.send(b"next")
    for letter, drains in ((b"x", [False, False, True]), (b"y", [True])):
        assert received(router)[1] == [letter] * (MOST_FRAMES + 1)
        assert [drain(router) for _ in drains] == drains
    assert received(router)[1] == [b"next"]


def test_silence_is_noticed_within_the_time_that_is_promised() -> None:
    options = zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL, zmq.HANDSHAKE_IVL
    with bind("tcp://127.0.0.1:*", 1000) as router:
        heartbeat_ms, timeout_ms, peers_ms, handshake_ms = (
            int(router.getsockopt(option)) for option in options
        )
    # A heartbeat that comes late cuts nobody.
    assert 0 < 2 * heartbeat_ms < timeout_ms <= 20_000 - heartbeat_ms
    assert 2 * heartbeat_ms < peers_ms <= 20_000
    assert handshake_ms == 5_000


def hasten(monkeypatch: pytest.MonkeyPatch, options: tuple[zmq.SocketOption, ...]) -> None:
    """Shortens these times of sockets to come to a twentieth of what is shipped."""
    for option in options:
        monkeypatch.setitem(
            sockets._SILENCE_OPTIONS, option, sockets._SILENCE_OPTIONS[option] // 20
        )


def test_a_peer_that_falls_silent_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch, (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL))
    with router_and_port() as (router, port), FaultProxy("127.0.0.1", port, count=1) as proxy:
        (link,) = proxy.links
        with dealer_to(link.address) as dealer:
            dealer.send(b"hello")
            received(router)
            proxy.call(lambda: link.half_open("learner"))
            wait_for(lambda: bool(link.noticed_s))


@pytest.mark.parametrize("said", [b"", GREETING[:12], GREETING], ids=["none", "part", "greeting"])
def test_a_stranger_who_says_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    hasten(monkeypatch, (zmq.HANDSHAKE_IVL,))
    with router_and_port() as (_, port), tcp.create_connection(("127.0.0.1", port)) as stranger:
        # ZeroMQ's own time is 30 s.
        stranger.settimeout(PATIENCE_MS / 1000)
        stranger.sendall(said)
        while stranger.recv(4096):
            pass


@pytest.mark.parametrize("alone", [False, True])
def test_a_second_run_on_a_machine_takes_a_free_port(
    alone: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    with tcp.create_server(("127.0.0.1", 0)) as other:
        usual = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setattr("seed.config.addresses.USUAL", usual)
        if alone:
            other.close()
        with bind("auto", 1000) as router:
            endpoint = router.get_string(zmq.LAST_ENDPOINT)
        if not alone:
            # Environment servers elsewhere connect to it, and would find another run there: a port
            # that was asked for is never another one.
            with pytest.raises(ConfigError) as refused:
                bind(usual, 1000)
            said = str(refused.value)
            assert said.startswith(f"inference.address = {usual!r}: cannot be bound (Address alr")
            assert said.endswith('a free one with --inference.address "tcp://127.0.0.1:*"')
    assert endpoint.startswith("tcp://127.0.0.1:")
    assert (endpoint == usual) == alone
    lines = [line.partition(", ")[0] for line in caplog.messages]
    assert lines == ([] if alone else [f"{usual} is in use"])


def test_a_host_that_is_not_this_one_needs_no_other_port() -> None:
    with pytest.raises(ConfigError) as refused:
        bind("tcp://192.0.2.1:5", 1000)
    assert "free" not in str(refused.value)
