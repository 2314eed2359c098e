"""The states of an environment server as tables: no socket, no wait."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envservers.states import Event, Lifecycle, State

NEVER = math.inf
CONNECT = [(Event.CONNECTED, 10.0), (Event.HELLO_SENT, 10.0)]
PLAY = [*CONNECT, (Event.WELCOMED, 11.0)]


def live(*events: tuple[Event, float], wait_s: float = NEVER) -> Lifecycle:
    """One that began at 0 s and to which these have happened, each at its time."""
    lifecycle = Lifecycle(0.0, wait_s=wait_s, jitter=lambda: 1.0)
    for event, now_s in events:
        lifecycle.handle(event, now_s)
    return lifecycle


@pytest.mark.parametrize(
    ("before", "event", "state", "hello_due_s", "notice_due_s"),
    [
        ([], Event.CONNECTED, State.READY, 20.0, 25.0),
        # An attempt that failed: there was nothing to lose.
        ([], Event.DISCONNECTED, State.CONNECTING, NEVER, 1.0),
        # The last words over a connection that is lost.
        ([], Event.ENDED, State.CONNECTING, NEVER, 50.0),
        ([], Event.WELCOMED, State.CONNECTING, NEVER, 1.0),
        ([], Event.REFUSED, State.CONNECTING, NEVER, 1.0),
        (CONNECT[:1], Event.HELLO_SENT, State.GREETING, 25.0, 15.0),
        (CONNECT[:1], Event.HELLO_UNSENT, State.READY, 20.2, 15.0),
        (CONNECT[:1], Event.DISCONNECTED, State.CONNECTING, NEVER, 21.0),
        # When a session has ended, each group's STEP gets a refusal: one HELLO is enough.
        (CONNECT[:1], Event.REFUSED, State.READY, 10.0, 15.0),
        (CONNECT[:1], Event.WELCOMED, State.PLAYING, NEVER, None),
        (CONNECT, Event.HELLO_SENT, State.GREETING, 25.0, 15.0),
        (CONNECT, Event.HELLO_UNSENT, State.READY, 20.2, 15.0),
        (CONNECT, Event.WELCOMED, State.PLAYING, NEVER, None),
        (CONNECT, Event.REFUSED, State.READY, 20.2, 50.0),
        (CONNECT, Event.ENDED, State.READY, 20.2, 50.0),
        (CONNECT, Event.DISCONNECTED, State.CONNECTING, NEVER, 21.0),
        (CONNECT, Event.CONNECTED, State.READY, 20.0, 25.0),
        (PLAY, Event.WELCOMED, State.PLAYING, NEVER, None),
        (PLAY, Event.REFUSED, State.READY, 20.2, 50.0),
        (PLAY, Event.ENDED, State.READY, 20.2, 50.0),
        (PLAY, Event.DISCONNECTED, State.CONNECTING, NEVER, 21.0),
        (PLAY, Event.CONNECTED, State.READY, 20.0, 25.0),
    ],
)
def test_what_follows_and_what_is_due(
    before: list[tuple[Event, float]], event: Event, state: State, hello_due_s: float,
    notice_due_s: float | None,
) -> None:  # fmt: skip
    lifecycle = live(*before, (event, 20.0))
    assert (lifecycle.state, lifecycle.hello_due_s) == (state, hello_due_s)
    # There is no notice while there is a session.
    assert lifecycle.due_s == min(hello_due_s, NEVER if notice_due_s is None else notice_due_s)
    assert not lifecycle.take_notice((notice_due_s or NEVER) - 0.01)
    assert lifecycle.take_notice(notice_due_s or 1e9) == (notice_due_s is not None)
    if notice_due_s is not None:
        assert not lifecycle.take_notice(notice_due_s + 29.99)
        assert lifecycle.take_notice(notice_due_s + 30.0)


def test_a_hello_in_vain_makes_the_next_one_later() -> None:
    lifecycle = live(*CONNECT)
    waits_s = []
    for _ in range(7):
        lifecycle.handle(Event.REFUSED, 100.0)
        waits_s.append(lifecycle.hello_due_s - 100.0)
        lifecycle.handle(Event.HELLO_SENT, 100.0)
        # A session alone proves nothing.
        lifecycle.handle(Event.WELCOMED, 100.0)
    assert waits_s == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    # A learner that has worked with a session is a learner that works.
    lifecycle.work()
    lifecycle.handle(Event.ENDED, 100.0)
    assert lifecycle.hello_due_s == pytest.approx(100.2)


@pytest.mark.parametrize(
    ("events", "gives_up_s"),
    [([], 60.0), (CONNECT, 60.0), ([*CONNECT, (Event.REFUSED, 20.0)], 60.0),
     (PLAY, None), ([*PLAY, (Event.DISCONNECTED, 20.0)], 80.0),
     ([*PLAY, (Event.ENDED, 20.0)], 80.0),
     ([*PLAY, (Event.ENDED, 20.0), (Event.ENDED, 30.0)], 80.0)],
)  # fmt: skip
def test_it_gives_up_when_there_was_no_session_for_too_long(
    events: list[tuple[Event, float]], gives_up_s: float | None
) -> None:
    lifecycle = live(*events, wait_s=60.0)
    assert lifecycle.gives_up(1e9) == (gives_up_s is not None)
    if gives_up_s is not None:
        assert not lifecycle.gives_up(gives_up_s - 0.01)
        assert lifecycle.gives_up(gives_up_s)
        assert lifecycle.due_s <= gives_up_s


EVENTS = st.lists(st.tuples(st.sampled_from(Event), st.floats(0.0, 10.0)), max_size=30)


@given(EVENTS, EVENTS)
def test_whatever_happens_hello_has_its_time_and_the_end_is_the_end(
    before: list[tuple[Event, float]], after: list[tuple[Event, float]]
) -> None:
    now_s, lifecycle = 0.0, live(wait_s=60.0)
    for event, passed_s in before:
        now_s += passed_s
        lifecycle.handle(event, now_s)
        waits = lifecycle.state in (State.CONNECTING, State.PLAYING)
        assert (lifecycle.hello_due_s == NEVER) == waits
    lifecycle.leave(7)
    lifecycle.leave(8)
    for event, _ in after:
        lifecycle.handle(event, now_s)
    assert (lifecycle.state, lifecycle.exit_code) == (State.LEAVING, 7)
    assert not lifecycle.take_notice(1e9)
    assert not lifecycle.gives_up(1e9)
    assert lifecycle.due_s == -NEVER, "it leaves at once"
