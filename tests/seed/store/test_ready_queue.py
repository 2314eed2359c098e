"""Where the two threads meet: what ends whose wait. What is taken, the store's model says."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from seed.store.pages import NO_PAGE, PageLinks
from seed.store.ready_queue import ReadyQueue

PAGES = [PageLinks(NO_PAGE, page, page + 1) for page in range(5)]
FOR_EVER_S = 3600.0


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def ends(thread: threading.Thread) -> bool:
    thread.join(300.0)
    return not thread.is_alive()


@pytest.mark.parametrize("move", ["take", "take_some", "release"])
@pytest.mark.parametrize("before", [True, False], ids=["moved before", "moved meanwhile"])
def test_whatever_the_learner_moves_ends_the_wait_for_it(move: str, before: bool) -> None:
    ready = ReadyQueue()
    ready.publish(PAGES)
    moves: dict[str, Callable[[], object]] = {
        "take": lambda: ready.take(1, 0.0),
        "take_some": lambda: ready.take_some(1, 0.0),
        "release": lambda: ready.release(PAGES[:1]),
    }
    if before:
        # Else a move between a look at the queue and the wait would be waited for in vain.
        moves[move]()
    waiting = in_thread(lambda: ready.wait_for_learner(FOR_EVER_S))
    if not before:
        waiting.join(0.05)
        assert waiting.is_alive()
        moves[move]()
    assert ends(waiting)


def test_a_move_ends_one_wait_only() -> None:
    ready = ReadyQueue()
    ready.release(PAGES)
    ready.wait_for_learner(FOR_EVER_S)
    waiting = in_thread(lambda: ready.wait_for_learner(FOR_EVER_S))
    waiting.join(0.05)
    assert waiting.is_alive()
    ready.release(PAGES)
    assert ends(waiting)


@pytest.mark.parametrize("method", ["take", "take_some"])
def test_the_learner_waits_for_pages(method: str) -> None:
    ready, taken = ReadyQueue(), list[PageLinks]()
    waiting = in_thread(lambda: taken.extend(getattr(ready, method)(2, FOR_EVER_S)))
    ready.publish(PAGES[:2])
    assert ends(waiting)
    assert taken == PAGES[:2]


def test_a_shortage_ends_the_learners_wait_for_some() -> None:
    ready = ReadyQueue()
    waiting = in_thread(lambda: ready.take_some(1, FOR_EVER_S))
    ready.report_shortage(3)
    assert ends(waiting)
    assert ready.take_shortage() == 3
