from __future__ import annotations

import contextlib
import math
import os
import socket as tcp
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

import envservers.connection
from envservers.connection import Connection, Denied, Keys
from seed.wire import codec, messages
from seed.wire.keys import KeyPair
from tests.waiting import wait_for
from tools.chaos.proxy import FaultProxy

HELLO = messages.Hello(1, (1,), "test")
PATIENCE_S = 300.0


@pytest.fixture
def router() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind("tcp://127.0.0.1:*")
        yield socket


@pytest.fixture
def connection(router: zmq.Socket[bytes]) -> Iterator[Connection]:
    connection = Connection(router.get_string(zmq.LAST_ENDPOINT))
    yield connection
    connection.close()


def next_change(connection: Connection) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < deadline_s, "the connection did not change"
        connection.wait(PATIENCE_S)
        for change in connection.changes():
            return change


def test_nothing_is_queued_for_a_learner_that_is_not_there() -> None:
    connection = Connection("ipc:///nonexistent/nobody")
    assert not connection.send(HELLO)
    connection.wait(0.05)
    assert list(connection.changes()) == []
    assert list(connection.messages()) == []
    connection.close()


def test_messages_go_both_ways_and_the_last_one_still_arrives(router: zmq.Socket[bytes]) -> None:
    connection = Connection(router.get_string(zmq.LAST_ENDPOINT))
    assert next_change(connection)
    assert connection.send(HELLO)
    peer, *frames = router.recv_multipart()
    assert codec.decode([*frames]) == HELLO
    for session in (1, 2):
        router.send_multipart([peer, *codec.encode(messages.Ping(session))])
    received: list[messages.Message] = []
    while len(received) < 2:
        connection.wait(PATIENCE_S)
        received += [codec.decode(frames) for frames in connection.messages()]
    assert received == [messages.Ping(1), messages.Ping(2)]
    connection.send(messages.Goodbye(1, "leaving"))
    connection.close()
    assert codec.decode([*router.recv_multipart()[1:]]) == messages.Goodbye(1, "leaving")


@pytest.fixture
def keyed_router(router: zmq.Socket[bytes]) -> tuple[str, str]:
    """A learner that knows no key at all: its address and its public key."""
    pair = KeyPair.new()
    router.unbind(router.get_string(zmq.LAST_ENDPOINT))
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
    router.setsockopt_string(zmq.ZAP_DOMAIN, "domain")
    router.bind("tcp://127.0.0.1:*")
    return router.get_string(zmq.LAST_ENDPOINT), pair.public


def denial(address: str, keys: Keys | None) -> str:
    connection = Connection(address, keys)
    try:
        while True:
            connection.wait(PATIENCE_S)
            # Never made, only lost.
            assert True not in list(connection.changes())
    except Denied as denied:
        return str(denied)
    finally:
        connection.close()


def test_a_learner_that_does_not_know_the_key_is_told(
    router: zmq.Socket[bytes], keyed_router: tuple[str, str]
) -> None:
    def deny(handler: zmq.Socket[bytes]) -> None:
        version, request, *_ = handler.recv_multipart()
        handler.send_multipart([version, request, b"400", b"no", b"", b""])

    address, learner_key = keyed_router
    keys = Keys(KeyPair.new(), learner_key)
    with router.context.socket(zmq.REP) as handler:
        handler.bind("inproc://zeromq.zap.01")
        answering = threading.Thread(target=deny, args=(handler,))
        answering.start()
        reason = denial(address, keys)
        answering.join()
    assert f"does not allow this key, {keys.own.public}" in reason
    assert keys.own.secret not in reason


@pytest.fixture
def interval_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """Between two attempts to connect to what differs about keys."""
    monkeypatch.setattr(envservers.connection, "_DIFFERENCE_INTERVAL_S", 0.05)
    return 0.05


def test_another_program_at_the_address_is_believed_only_after_a_while(interval_s: float) -> None:
    connection = Connection("ipc:///nonexistent/nobody")
    began_s = time.monotonic()
    for _ in range(2):
        # However often it answers.
        for _ in range(5):
            connection._fail(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        while connection._attempt_due_s < math.inf:
            connection.wait(PATIENCE_S)
    with pytest.raises(Denied):
        connection._fail(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    connection.close()
    assert time.monotonic() - began_s >= 2 * interval_s


@pytest.mark.usefixtures("interval_s")
def test_another_program_at_the_address_for_a_moment_is_no_denial(
    router: zmq.Socket[bytes], keyed_router: tuple[str, str]
) -> None:
    address, _ = keyed_router
    connection = Connection(address)
    while not connection._differences:
        connection.wait(PATIENCE_S)
        assert True not in list(connection.changes())
    router.close()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as learner:
        wait_for(lambda: takes_over(learner, address))
        while True not in list(connection.changes()):
            connection.wait(PATIENCE_S)
        assert connection._differences == 0
    connection.close()


def takes_over(socket: zmq.Socket[bytes], address: str) -> bool:
    """Whether it has the address now, from a socket that is being closed."""
    with contextlib.suppress(zmq.ZMQError):
        socket.bind(address)
        return True
    return False


@pytest.mark.usefixtures("interval_s")
def test_sides_that_differ_about_keys_are_told(
    router: zmq.Socket[bytes], keyed_router: tuple[str, str]
) -> None:
    assert "give --key and --learner-key" in denial(keyed_router[0], None)
    plain = router.context.socket(zmq.ROUTER)
    plain.bind("tcp://127.0.0.1:*")
    keys = Keys(KeyPair.new(), keyed_router[1])
    assert "leave --key out" in denial(plain.get_string(zmq.LAST_ENDPOINT), keys)
    plain.close(0)
    # To another learner than the one meant, ZeroMQ connects for ever and says nothing.
    connection = Connection(keyed_router[0], Keys(KeyPair.new(), KeyPair.new().public))
    assert connection.warning == ""
    for _ in range(100):
        connection.wait(PATIENCE_S)
        assert True not in list(connection.changes())
        if connection.warning:
            break
    assert "not the owner of --learner-key" in connection.warning
    connection.close()


def test_silence_is_noticed_within_the_time_that_is_promised(connection: Connection) -> None:
    heartbeat_ms, timeout_ms, peers_timeout_ms = (
        int(connection._socket.getsockopt(option))
        for option in (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL)
    )
    assert heartbeat_ms > 0
    # A heartbeat that comes late cuts nobody.
    assert 2 * heartbeat_ms < timeout_ms <= 20_000 - heartbeat_ms
    assert 2 * heartbeat_ms < peers_timeout_ms <= 20_000
    assert connection._socket.getsockopt(zmq.HANDSHAKE_IVL) == 5_000


def hasten(monkeypatch: pytest.MonkeyPatch, options: tuple[zmq.SocketOption, ...]) -> None:
    """Shortens these times of connections to come to a tenth of what is shipped."""
    shipped = envservers.connection._SOCKET_OPTIONS
    for option in options:
        monkeypatch.setitem(shipped, option, shipped[option] // 10)


def test_a_learner_that_falls_silent_is_left_and_found_again(
    router: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch, (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL))
    port = int(router.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    with FaultProxy("127.0.0.1", port, count=1) as proxy:
        (link,) = proxy.links
        connection = Connection(link.address)
        assert next_change(connection)
        proxy.call(lambda: link.half_open("server"))
        assert not next_change(connection)
        assert next_change(connection)
        assert len(link.noticed_s) == 1
        connection.close()


def test_a_learner_that_says_nothing_at_first_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch, (zmq.HANDSHAKE_IVL,))
    with tcp.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        accepted, _ = listener.accept()
        with accepted:
            # ZeroMQ's own time is 30 s.
            accepted.settimeout(PATIENCE_S)
            while accepted.recv(4096):
                pass
        connection.close()


def test_another_thread_can_end_the_wait(connection: Connection) -> None:
    assert next_change(connection)
    waiting = threading.Thread(target=connection.wait, args=(10 * PATIENCE_S,))
    waiting.start()
    connection.wake()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    # Far more often than the pipe can hold.
    for _ in range(100_000):
        connection.wake()
    connection.wait(PATIENCE_S)


def test_closing_waits_for_a_wake_that_has_begun(
    router: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(router.get_string(zmq.LAST_ENDPOINT))
    closing, write = threading.Thread(target=connection.close), os.write

    def write_late(descriptor: int, data: bytes) -> int:
        closing.start()
        closing.join(0.3)
        return write(descriptor, data)

    monkeypatch.setattr("envservers.connection.os.write", write_late)
    connection.wake()
    closing.join(PATIENCE_S)
    connection.wake()
