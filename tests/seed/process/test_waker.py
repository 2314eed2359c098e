"""A thread that waits for a pipe is woken by another, however often and whenever it is called."""

from __future__ import annotations

import select

from seed.process.waker import Waker


def readable(waker: Waker) -> bool:
    return bool(select.select([waker.fileno()], [], [], 0)[0])


def test_it_is_readable_until_it_is_cleared() -> None:
    waker = Waker()
    assert not readable(waker)
    waker.clear()
    # More than a pipe holds.
    for _ in range(100_000):
        waker.wake()
    assert readable(waker)
    while readable(waker):
        waker.clear()
    waker.wake()
    assert readable(waker)
    waker.close()
    # Of a thread that has not heard of it.
    waker.wake()
