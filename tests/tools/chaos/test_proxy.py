"""The proxy's links pass, hold, cut, corrupt and repeat what real sockets send."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator

import pytest
import zmq

from tests.waiting import wait_for
from tools.chaos.proxy import FaultProxy, Link, free_port


class Ends:
    """A ROUTER and a DEALER with a link between them."""

    def __init__(self, proxy: FaultProxy, port: int, context: zmq.Context[zmq.Socket[bytes]]):
        self.proxy, self.link = proxy, proxy.links[0]
        self.learner = context.socket(zmq.ROUTER)
        self.learner.setsockopt(zmq.LINGER, 0)
        self.learner.setsockopt(zmq.RCVTIMEO, 300_000)
        self.learner.bind(f"tcp://127.0.0.1:{port}")
        self.server = context.socket(zmq.DEALER)
        self.server.setsockopt(zmq.LINGER, 0)
        self.server.setsockopt(zmq.RCVTIMEO, 300_000)
        self.server.setsockopt(zmq.RECONNECT_IVL, 20)
        self.server.connect(self.link.address)

    def ask(self, *frames: bytes) -> list[bytes]:
        """Sends to the learner, which answers with the same; what comes back."""
        self.server.send_multipart(frames)
        identity, *got = self.learner.recv_multipart()
        assert got == list(frames)
        self.learner.send_multipart([identity, *got])
        return self.server.recv_multipart()


@pytest.fixture
def ends() -> Iterator[Ends]:
    port = free_port()
    with FaultProxy("127.0.0.1", port, count=1) as proxy, zmq.Context() as context:
        ends = Ends(proxy, port, context)
        yield ends
        ends.server.close()
        ends.learner.close()


def test_messages_pass_both_ways_and_are_recorded_and_sent_again(ends: Ends) -> None:
    assert ends.ask(b"a", b"", bytes(100_000)) == [b"a", b"", bytes(100_000)]
    ends.proxy.call(lambda: ends.link.delay(0.05))
    began_s = time.monotonic()
    assert ends.ask(b"late") == [b"late"]
    assert time.monotonic() - began_s >= 0.1
    assert ends.link.num_connections == 1
    assert len(ends.link.recorded) == 2
    old = list(ends.link.recorded)
    ends.proxy.call(lambda: ends.link.inject(old))
    assert ends.learner.recv_multipart()[1:] == [b"a", b"", bytes(100_000)]
    assert ends.learner.recv_multipart()[1:] == [b"late"]
    assert ends.ask(b"third") == [b"third"]


# Whether it was connected before, or connects meanwhile.
@pytest.mark.parametrize("anew", [False, True])
def test_nothing_passes_a_partition_and_nothing_is_lost_by_it(ends: Ends, anew: bool) -> None:
    ends.ask(b"before")
    ends.proxy.call(ends.link.hold)
    if anew:
        ends.proxy.call(ends.link.cut)
    ends.server.send(b"meanwhile")
    assert not ends.learner.poll(200)
    ends.proxy.call(ends.link.release)
    assert ends.learner.recv_multipart()[1:] == [b"meanwhile"]


def test_cut_connections_come_back(ends: Ends) -> None:
    ends.ask(b"before")
    ends.proxy.call(ends.link.cut)
    wait_for(lambda: ends.link.num_connections == 1)
    assert ends.ask(b"after") == [b"after"]


def test_a_half_open_end_gives_up_by_its_heartbeat(ends: Ends) -> None:
    with zmq.Context() as context:
        server = context.socket(zmq.DEALER)
        server.setsockopt(zmq.LINGER, 0)
        server.setsockopt(zmq.HEARTBEAT_IVL, 200)
        server.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
        ends.server.close()
        server.connect(ends.link.address)
        server.send(b"hello")
        assert ends.learner.recv_multipart()[1:] == [b"hello"]
        ends.proxy.call(lambda: ends.link.half_open("server"))
        wait_for(lambda: len(ends.link.noticed_s) == 1)
        # Silence was noticed by its heartbeats, and it came back. What it had for a connection that
        # it gives up is lost.

        def sent_again() -> bool:
            server.send(b"again")
            return bool(ends.learner.poll(100))

        wait_for(sent_again)
        assert ends.learner.recv_multipart()[1:] == [b"again"]
        server.close()


def test_one_bit_is_flipped(ends: Ends) -> None:
    ends.ask(b"before")
    ends.proxy.call(lambda: ends.link.corrupt("server", 1, place=0.99))
    ends.server.send_multipart([b"head", bytes(1000)])
    _, head, body = ends.learner.recv_multipart()
    assert head == b"head"
    assert len(body) == 1000
    assert sorted(body)[-2:] == [0, 0x10]
    assert len(ends.link.flipped_s) == 1
    assert ends.ask(b"after") == [b"after"]


def test_without_a_learner_a_connection_ends() -> None:
    with FaultProxy("127.0.0.1", free_port(), count=2) as proxy:
        link: Link = proxy.links[1]
        with socket.create_connection(("127.0.0.1", link.port), timeout=300) as client:
            assert client.recv(1) == b""
        wait_for(lambda: link.num_connections == 0)


def test_connections_of_the_last_moment_are_closed() -> None:
    """pytest takes what is left open for an error, as soon as it is collected."""
    with socket.socket() as learner:
        learner.bind(("127.0.0.1", 0))
        learner.listen()
        for _ in range(20):
            with FaultProxy("127.0.0.1", learner.getsockname()[1], 1) as proxy:
                address = ("127.0.0.1", proxy.links[0].port)
                clients = [socket.create_connection(address) for _ in range(2)]
            for client in clients:
                client.close()
    gc.collect()
