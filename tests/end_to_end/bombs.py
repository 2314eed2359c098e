"""What a stranger may send to a learner's port: raw bytes after, or instead of, ZMTP's greeting."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.seed.wire.malformed import MALFORMED

_MIB = 2**20
_MORE, _LONG, _COMMAND = 1, 2, 4


def greeting(mechanism: bytes) -> bytes:
    """ZMTP 3.1's greeting of a client."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def frame(flags: int, size: int, body: bytes) -> bytes:
    """A frame that says it has `size` bytes."""
    if size > 255:
        return bytes([flags | _LONG]) + size.to_bytes(8, "big") + body
    return bytes([flags, size]) + body


def message(frames: Sequence[bytes]) -> bytes:
    """A whole message."""
    flags = [_MORE] * (len(frames) - 1) + [0]
    return b"".join(frame(flag, len(body), body) for flag, body in zip(flags, frames, strict=True))


# A client's part of the handshake without keys.
READY = frame(_COMMAND, 28, b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER")


def bombs(largest_frame_bytes: int) -> dict[str, tuple[bytes, bytes]]:
    """What is sent first, and what is sent again and again after it, by name."""
    curve, plain = greeting(b"CURVE"), greeting(b"NULL") + READY
    hello = frame(_COMMAND, 200, (b"\x05HELLO\x01\0" + bytes(193)))
    zeros, empty = bytes(_MIB), frame(_MORE, 0, b"") * 4096
    largest = frame(_MORE, largest_frame_bytes - 1, bytes(largest_frame_bytes - 1))
    malformed = b"".join(map(message, (case.frames for case in MALFORMED.values())))
    return {
        "nothing of the protocol": (b"", zeros),
        "huge frame": (curve + frame(0, 2**40, b""), zeros),
        "huge frame without keys": (plain + frame(0, 2**40, b""), zeros),
        "huge command": (curve, frame(_COMMAND, largest_frame_bytes - 1, largest)),
        "endless message": (curve + hello, empty),
        "endless message without keys": (plain, empty),
        "malformed messages without keys": (plain, malformed),
        "large frames": (curve + hello, largest),
        "large frames without keys": (plain, largest),
    }


def throw(address: str, bomb: tuple[bytes, bytes], connections: int, most_bytes: int) -> int:
    """Sends a bomb on some connections, until each is cut or has sent so much: bytes in all."""
    found = re.fullmatch(r"tcp://(.+):(\d+)", address)
    assert found is not None
    first, piece = bomb
    sent = [0] * connections

    def attack(index: int) -> None:
        with contextlib.suppress(OSError), socket.create_connection(
            (found[1], int(found[2])), timeout=1.0
        ) as peer:
            peer.sendall(first)
            if READY in first:
                _wait_until_ready(peer)
            while sent[index] < most_bytes:
                peer.sendall(piece)
                sent[index] += len(piece)

    threads = [threading.Thread(target=attack, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sent)


def _wait_until_ready(peer: socket.socket) -> None:
    """Waits for the other side's part of the handshake; before, messages would be errors."""
    received = b""
    while b"READY" not in received:
        more = peer.recv(4096)
        if not more:
            raise ConnectionError("cut during the handshake")
        received += more


def peak_mib(pid: int) -> float:
    """The most memory that a process has had so far, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
