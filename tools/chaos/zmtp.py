"""Where ZeroMQ's messages begin and end in a connection's bytes (ZMTP 3.1); nothing more."""

from __future__ import annotations

from typing import NamedTuple

_GREETING_BYTES = 64
_MORE, _LONG, _COMMAND = 1, 2, 4


class Piece(NamedTuple):
    """Bytes that belong together.

    Attributes:
        data: As they came.
        is_message: Whether they are a whole message with all its frames, as opposed to the
            greeting or one of ZeroMQ's own commands (handshake, heartbeat).
    """

    data: bytes
    is_message: bool


class Splitter:
    """Cuts one direction of a connection into pieces, however the bytes arrive."""

    def __init__(self) -> None:
        """At the connection's first byte."""
        self._waiting = bytearray()
        self._greeting_left = _GREETING_BYTES

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are whole now, in order.

        Parts of the greeting are pieces, too: each peer waits for the other's first part.
        """
        pieces = []
        if self._greeting_left:
            greeting, data = data[: self._greeting_left], data[self._greeting_left :]
            self._greeting_left -= len(greeting)
            pieces.append(Piece(greeting, False))
        self._waiting += data
        while (end := self._end()) is not None:
            is_message = not self._waiting[0] & _COMMAND
            pieces.append(Piece(bytes(self._waiting[:end]), is_message))
            del self._waiting[:end]
        return pieces

    def _end(self) -> int | None:
        """Where the next message or command ends; None where that is still to come."""
        at, more = 0, True
        while more:
            length_bytes = 8 if self._flags(at) & _LONG else 1
            start = at + 1 + length_bytes
            if len(self._waiting) < start:
                return None
            more = bool(self._flags(at) & _MORE)
            at = start + int.from_bytes(self._waiting[at + 1 : start])
        return at if len(self._waiting) >= at else None

    def _flags(self, at: int) -> int:
        return self._waiting[at] if at < len(self._waiting) else 0
