"""The central process's socket, with settings that fence off slow and dead peers."""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from seed.config import ConfigError
from seed.wire import Frame

# Plain integers: pyzmq's flags cost more to combine than small frames to send.
_AT_ONCE = int(zmq.NOBLOCK)
_MORE_AT_ONCE = _AT_ONCE | int(zmq.SNDMORE)
# Larger frames stay in ZeroMQ's memory.
_LARGEST_COPY_BYTES = 4096


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


def receive(socket: zmq.Socket[bytes]) -> tuple[bytes, list[Frame]] | None:
    """A message that has arrived and the identity of its connection; None where there is none."""
    try:
        identity = socket.recv(_AT_ONCE, copy=False)
    except zmq.Again:
        return None
    frames: list[Frame] = []
    frame = identity
    while frame.more:
        frame = socket.recv(_AT_ONCE, copy=False)
        frames.append(frame.bytes if len(frame) <= _LARGEST_COPY_BYTES else frame.buffer)
    return identity.bytes, frames


def send(socket: zmq.Socket[bytes], identity: bytes, frames: Sequence[Frame]) -> bool:
    """Sends a message at once; False where the connection is gone or its peer does not read."""
    try:
        socket.send(identity, _MORE_AT_ONCE)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
            return False
        raise
    for frame in frames[:-1]:
        socket.send(frame, _MORE_AT_ONCE)
    socket.send(frames[-1], _AT_ONCE)
    return True
