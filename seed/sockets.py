"""The central process's socket, with settings that fence off slow and dead peers."""

from __future__ import annotations

import zmq

from seed.config import ConfigError


def bind(address: str, largest_frame_bytes: int) -> zmq.Socket[bytes]:
    """A ROUTER socket at the address, which cuts connections that send larger frames.

    Raises:
        ConfigError: where the address cannot be bound.
    """
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, largest_frame_bytes)
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.SNDHWM, 64)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 15_000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    socket.setsockopt(zmq.BACKLOG, 4_096)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1 if "[" in address else 0)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(
            f"inference.address = {address!r}: cannot be bound ({error.strerror}); "
            "is another learner running there?"
        ) from None
    return socket
