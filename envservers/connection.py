"""The environment server's socket: a DEALER that reconnects by itself, and news of when it did."""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from seed.wire.codec import encode
from seed.wire.keys import KeyPair
from seed.wire.messages import Frame, Message

_GOODBYE_LINGER_MS = 500
_SOCKET_OPTIONS = {
    # Nothing is queued for a learner that is not there: what it missed would be stale.
    zmq.IMMEDIATE: 1,
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL_MAX: 5_000,
    # A partition shows as a connection attempt without an answer, for minutes if left to TCP.
    zmq.CONNECT_TIMEOUT: 5_000,
    zmq.HANDSHAKE_IVL: 5_000,
    zmq.HEARTBEAT_IVL: 5_000,
    zmq.HEARTBEAT_TIMEOUT: 12_000,
    zmq.HEARTBEAT_TTL: 12_000,
    zmq.TCP_KEEPALIVE: 1,
}


_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
# A garbled greeting looks like a learner that differs about keys, and one that just ends like a
# learner with another key; several in a row are no accident.
_FAILURES_BELIEVED = 3
# Another program may have the port for a moment, while a learner is started again.
_DIFFERENCE_INTERVAL_S = 1.0


class Keys(NamedTuple):
    """What a connection to a learner with keys takes.

    Attributes:
        own: The environment server's pair.
        learner: The learner's public key.
    """

    own: KeyPair
    learner: str


class Denied(Exception):
    """The learner does not let this environment server in; the text says why and what to do."""


class UnusableAddress(ValueError):
    """An address that no socket can connect to, with what was expected."""


class Connection:
    """One DEALER socket that is connected to the learner, or trying to be.

    All methods belong to one thread, except `wake`.

    Attributes:
        address: Where the learner listens.
    """

    def __init__(self, address: str, keys: Keys | None = None) -> None:
        """Starts connecting to `address` ("tcp://HOST:PORT" or "ipc://PATH").

        With keys, only the learner that has the secret key to `keys.learner` can answer.

        Raises:
            UnusableAddress: where the address cannot mean a learner.
        """
        self._closed = False
        # A signal handler may interrupt its own thread in either.
        self._wake_or_close = threading.RLock()
        self.address, self._keys = address, keys
        # Handshakes that failed since one succeeded, and those of them that differed about keys.
        self._failures = self._differences = 0
        # time.monotonic() of the next attempt after one that differed; infinite where ZeroMQ tries.
        self._attempt_due_s = math.inf
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in _SOCKET_OPTIONS.items():
            self._socket.setsockopt(option, value)
        # Drawn at random, so that a fleet does not come back to a restarted learner all at once.
        self._socket.setsockopt(zmq.RECONNECT_IVL, random.randint(100, 200))
        self._socket.setsockopt(zmq.IPV6, int(address.startswith("tcp://[")))
        if keys is not None:
            self._socket.setsockopt_string(zmq.CURVE_SERVERKEY, keys.learner)
            self._socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.own.public)
            self._socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.own.secret)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._poller = zmq.Poller()
        for readable in (self._socket, self._monitor, self._wake_reader):
            self._poller.register(readable, zmq.POLLIN)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise UnusableAddress(
                f"--connect {address}: cannot be used ({error.strerror}); expected "
                "tcp://HOST:PORT or ipc://PATH"
            ) from None

    def wait(self, timeout_s: float) -> None:
        """Returns when there is a message, a change or a `wake`, or `timeout_s` have passed.

        Now and then it returns earlier, as there is an attempt to make.
        """
        left_s = self._attempt_due_s - time.monotonic()
        if left_s <= 0:
            self._attempt_due_s = math.inf
            self._socket.connect(self.address)
        timeout_s = min(timeout_s, max(left_s, 0.0) + 0.001)
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)

    def wake(self) -> None:
        """Makes `wait` return; may be called by other threads and by signal handlers."""
        # If the pipe is full of earlier calls, `wait` will return anyway.
        with self._wake_or_close, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake_writer, b"w")

    def messages(self) -> Iterator[list[Frame]]:
        """The messages that have arrived, as frames, without waiting for more."""
        while True:
            try:
                yield [*self._socket.recv_multipart(zmq.NOBLOCK)]
            except zmq.Again:
                return

    def changes(self) -> Iterator[bool]:
        """What happened to the connection, in order: True for made, False for lost.

        Raises:
            Denied: where trying again cannot help.
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._differences = self._failures = 0
                yield True
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                yield False
            else:
                self._fail(event["event"])

    def _fail(self, event: int) -> None:
        self._failures += 1
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise Denied(
                f"the learner at {self.address} does not allow this key, "
                f"{self._keys.own.public if self._keys else ''}: put its public half into the "
                "learner's inference.allowed_keys, or use another"
            )
        if event != zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or self._attempt_due_s < math.inf:
            return
        self._differences += 1
        if self._differences >= _FAILURES_BELIEVED:
            raise Denied(
                f"what listens at {self.address} uses no keys: leave --key out, or correct "
                "--connect"
                if self._keys
                else f"what listens at {self.address} is no learner without keys: give --key and "
                "--learner-key, or correct --connect"
            )
        # ZeroMQ gives up where it understood an answer that it cannot use.
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self.address)
        self._attempt_due_s = time.monotonic() + _DIFFERENCE_INTERVAL_S

    @property
    def warning(self) -> str:
        """What failed handshakes may mean, for the end of a sentence; empty where few failed."""
        if self._failures < _FAILURES_BELIEVED:
            return ""
        if self._keys:
            return "; what answers there is not the owner of --learner-key"
        return "; what answers there may have keys: then give --key and --learner-key"

    def send(self, message: Message) -> bool:
        """Sends without waiting. Returns False, having sent nothing, where there is no learner."""
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Closes the socket, after up to half a second for what has not gone out yet."""
        with self._wake_or_close:
            self._closed = True
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_GOODBYE_LINGER_MS)
        self._context.term()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
