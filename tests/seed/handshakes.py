"""Attempts to connect to a learner that has keys."""

from __future__ import annotations

import contextlib

import zmq
from zmq.utils.monitor import recv_monitor_message

from seed.wire import codec, messages
from seed.wire.keys import KeyPair


def handshake(
    endpoint: str, pair: KeyPair | None, learner_key: str, wait_ms: int = 300_000
) -> str | None:
    """How a connection's first attempt ends, by the name of its event; None if not in time."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    if pair:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, learner_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
    monitor = socket.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    )  # fmt: skip
    socket.connect(endpoint)
    # Where the other side has refused already, there is nobody left to send it to.
    with contextlib.suppress(zmq.Again):
        socket.send_multipart(codec.encode(messages.Hello(1, (1,), "whoever")), zmq.NOBLOCK)
    event = recv_monitor_message(monitor)["event"] if monitor.poll(wait_ms) else None
    socket.disable_monitor()
    monitor.close()
    socket.close()
    return None if event is None else zmq.Event(event).name
