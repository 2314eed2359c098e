"""The central process's socket, with settings that fence off slow and dead peers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import zmq

from seed.config.addresses import candidates, free_port
from seed.config.schema import ConfigError
from seed.transport.authentication import Authentication
from seed.transport.socket_files import listen, settle
from seed.wire.limits import MAX_GROUPS, MOST_FRAMES
from seed.wire.messages import Frame

log = logging.getLogger(__name__)

# Plain integers: pyzmq's flags cost more to combine than small frames to send.
_AT_ONCE = int(zmq.NOBLOCK)
_MORE_AT_ONCE = _AT_ONCE | int(zmq.SNDMORE)
# Larger frames stay in ZeroMQ's memory.
_LARGEST_COPY_BYTES = 4096
_FRAMES_READ = range(MOST_FRAMES + 1)
_DRAINED_AT_ONCE = 10_000
# Messages of one connection that wait to be read: one STEP of each group, as then none is held up.
_RECEIVED_MESSAGES = MAX_GROUPS
# Those that wait to be sent. ZeroMQ notices only in steps of half this number that some are gone,
# so that half of it is what can be relied on: ACTIONS for each group at once, and a few others.
_SENT_MESSAGES = 2 * (MAX_GROUPS + 8)
# How long who says nothing is waited for: connected, and before it is.
_SILENCE_OPTIONS = {
    zmq.HEARTBEAT_IVL: 5_000,
    zmq.HEARTBEAT_TIMEOUT: 12_000,
    zmq.HEARTBEAT_TTL: 12_000,
    zmq.HANDSHAKE_IVL: 5_000,
}


def bind(
    address: str, largest_frame_bytes: int, authentication: Authentication | None = None
) -> zmq.Socket[bytes]:
    """A ROUTER socket at the address, which cuts connections that send larger frames.

    With an authentication, only those whom it knows can connect. "auto" takes a free port where the
    usual one is in use.

    Raises:
        ConfigError: where the address cannot be bound.
    """
    address = settle(address)
    listening = listen(address)
    context = authentication.context if authentication else zmq.Context.instance()
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    if authentication:
        authentication.protect(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, largest_frame_bytes)
    socket.setsockopt(zmq.RCVHWM, _RECEIVED_MESSAGES)
    socket.setsockopt(zmq.SNDHWM, _SENT_MESSAGES)
    for option, value_ms in _SILENCE_OPTIONS.items():
        socket.setsockopt(option, value_ms)
    socket.setsockopt(zmq.BACKLOG, 4_096)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1 if address.startswith("tcp://[") else 0)
    if listening is not None:
        socket.setsockopt(zmq.USE_FD, listening)
    try:
        _bind_first(socket, candidates(address))
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(
            f"inference.address = {address!r}: cannot be bound ({error.strerror})"
            f"{_remedy(address, error.errno)}"
        ) from None
    return socket


def _bind_first(socket: zmq.Socket[bytes], addresses: Sequence[str]) -> None:
    """Binds the first one that is not in use; raises ZMQError."""
    for address in addresses[:-1]:
        try:
            socket.bind(address)
            return
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            log.info(
                "%s is in use, by another run say; taking a free port, as inference.address says "
                "nothing else", address,
            )  # fmt: skip
    socket.bind(addresses[-1])


def _remedy(address: str, number: int | None) -> str:
    if number != zmq.EADDRINUSE or not (usual := candidates(address)[0]).startswith("tcp://"):
        return ""
    return (
        "; another learner is running there, or something else: choose another port, or a free one "
        f'with --inference.address "{free_port(usual)}"'
    )


def receive(
    socket: zmq.Socket[bytes], *, with_key: bool = False
) -> tuple[bytes, list[Frame], str] | None:
    """A message that has arrived, or None: its connection's identity, its frames, its sender's key.

    The key, of a socket with authentication, is looked up where asked for, and else empty. Of a
    message with more than MOST_FRAMES frames only so many and one are read: call `drain`.
    """
    try:
        identity = socket.recv(_AT_ONCE, copy=False)
    except zmq.Again:
        return None
    frames: list[Frame] = []
    frame = identity
    for _ in _FRAMES_READ:
        if not frame.more:
            break
        frame = socket.recv(_AT_ONCE, copy=False)
        frames.append(frame.bytes if len(frame) <= _LARGEST_COPY_BYTES else frame.buffer)
    return identity.bytes, frames, str(identity.get("User-Id")) if with_key else ""


def drain(socket: zmq.Socket[bytes]) -> bool:
    """Throws away the rest of a message, a part of it at a time; False where some is left."""
    for _ in range(_DRAINED_AT_ONCE):
        if not socket.getsockopt(zmq.RCVMORE):
            return True
        socket.recv(_AT_ONCE, copy=False)
    return False


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
