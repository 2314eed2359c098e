"""Messages are found in a connection's bytes, however those arrive."""

from __future__ import annotations

import random

from tools.chaos.zmtp import Piece, Splitter

GREETING = b"\xff" + bytes(63)
READY = bytes([4, 5]) + b"READY"
SHORT = bytes([1, 2]) + b"ab" + bytes([0, 0])
LONG = bytes([2]) + (300).to_bytes(8, "big") + bytes(300)
PIECES = [
    Piece(READY, False), Piece(SHORT, True), Piece(LONG, True), Piece(READY, False),
    Piece(SHORT, True),
]  # fmt: skip


def test_pieces_are_cut_wherever_the_bytes_are() -> None:
    stream = GREETING + b"".join(piece.data for piece in PIECES)
    chance = random.Random(1)
    for longest in (1, 3, 70, 1000):
        splitter, at, pieces = Splitter(), 0, []
        while at < len(stream):
            size = chance.randint(1, longest)
            pieces += splitter.feed(stream[at : at + size])
            at += size
        greeting = pieces[: -len(PIECES)]
        assert pieces[-len(PIECES) :] == PIECES
        assert b"".join(piece.data for piece in greeting) == GREETING
        assert not any(piece.is_message for piece in greeting)
