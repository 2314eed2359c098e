"""Where an environment server stands with its learner, as a table. No socket and no clock here.

        CONNECTED         HELLO_SENT          WELCOMED
CONNECTING ────▶ READY ────────▶ GREETING ────────▶ PLAYING
    ▲              ▲                 │ REFUSED, ENDED  │
    │              └─────────────────┴─────────────────┘
    └── DISCONNECTED, from any of them                      `leave`, from any of them ─▶ LEAVING
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from envservers.supervision.recovery import doubled_s, jitter

CONNECT_PATIENCE_S = 1.0
ANSWER_TIMEOUT_S = 5.0
NOTICE_INTERVAL_S = 30.0
SHORTEST_DELAY_S, LONGEST_DELAY_S = 0.2, 5.0


class State(Enum):
    """What the server is doing."""

    CONNECTING = auto()  # There is no connection; ZeroMQ tries to make one.
    READY = auto()  # There is one, and HELLO is said when its time has come.
    GREETING = auto()  # HELLO has been said, and is repeated until there is an answer.
    PLAYING = auto()  # There is a session: environments are stepped.
    LEAVING = auto()  # The exit code is known; nothing changes any more.


class Event(Enum):
    """What happens to it."""

    CONNECTED = auto()
    DISCONNECTED = auto()
    HELLO_SENT = auto()
    HELLO_UNSENT = auto()  # The connection has been lost, which is not known yet.
    WELCOMED = auto()  # The environments of a new session are made and reset.
    REFUSED = auto()  # For now: the learner asks for another attempt.
    ENDED = auto()  # By a GOODBYE of either side, or by a STEP that could not be sent.


class Wait(NamedTuple):
    """Seconds from an event to what is due next; infinite for never, None for: as it was.

    Attributes:
        hello_s: To HELLO; `BACKOFF_S` for later each time that it comes to nothing.
        notice_s: To telling the person who watches that there is no learner.
    """

    hello_s: float | None = None
    notice_s: float | None = None


_CONNECTING, _READY, _GREETING, _PLAYING, _LEAVING = State
BACKOFF_S = -1.0

# What has no entry changes nothing: messages of it come too late, and are dropped.
TRANSITIONS: dict[State, dict[Event, State]] = {
    _CONNECTING: {
        Event.CONNECTED: _READY,
        # The learner's last word, read after its connection was lost.
        Event.ENDED: _CONNECTING,
    },
    _READY: {
        Event.CONNECTED: _READY,
        Event.DISCONNECTED: _CONNECTING,
        Event.HELLO_SENT: _GREETING,
        Event.HELLO_UNSENT: _READY,
        # An answer to a HELLO before.
        Event.WELCOMED: _PLAYING,
        # REFUSED is missing: when a session has ended, each group's STEP gets a refusal.
        Event.ENDED: _READY,
    },
    _GREETING: {
        Event.CONNECTED: _READY,
        Event.DISCONNECTED: _CONNECTING,
        Event.HELLO_SENT: _GREETING,
        Event.HELLO_UNSENT: _READY,
        Event.WELCOMED: _PLAYING,
        Event.REFUSED: _READY,
        Event.ENDED: _READY,
    },
    _PLAYING: {
        Event.CONNECTED: _READY,
        Event.DISCONNECTED: _CONNECTING,
        # The learner has begun anew.
        Event.WELCOMED: _PLAYING,
        Event.REFUSED: _READY,
        Event.ENDED: _READY,
    },
    _LEAVING: {},
}

WAITS: dict[Event, Wait] = {
    Event.CONNECTED: Wait(0.0, ANSWER_TIMEOUT_S),
    Event.DISCONNECTED: Wait(math.inf, CONNECT_PATIENCE_S),
    Event.HELLO_SENT: Wait(ANSWER_TIMEOUT_S),
    Event.HELLO_UNSENT: Wait(SHORTEST_DELAY_S),
    Event.WELCOMED: Wait(math.inf),
    Event.REFUSED: Wait(BACKOFF_S, NOTICE_INTERVAL_S),
    Event.ENDED: Wait(BACKOFF_S, NOTICE_INTERVAL_S),
}


class Lifecycle:
    """The state of a server, and when HELLO, a notice and giving up are due.

    All times are on the caller's clock.

    Attributes:
        state: See `State`.
        exit_code: What the process ends with; None unless LEAVING.
        hello_due_s: When to say HELLO; infinite where that waits for an event.
    """

    exit_code: int | None

    def __init__(
        self,
        now_s: float,
        *,
        wait_s: float = math.inf,
        jitter: Callable[[], float] = jitter,
    ) -> None:
        """Starts at CONNECTING; it gives up after `wait_s` without a session."""
        self.state, self.exit_code = State.CONNECTING, None
        self.hello_due_s = math.inf
        self._notice_due_s = now_s + CONNECT_PATIENCE_S
        self._wait_s, self._waiting_since_s = wait_s, now_s
        self._jitter = jitter
        # HELLOs and sessions that came to nothing since the learner last worked with one.
        self._failures = 0

    @property
    def due_s(self) -> float:
        """When there is something to do without an event; infinite for never."""
        if self.state is State.LEAVING:
            return -math.inf
        if self.state is State.PLAYING:
            return self.hello_due_s
        return min(self.hello_due_s, self._notice_due_s, self._waiting_since_s + self._wait_s)

    def takes(self, event: Event) -> bool:
        """Whether the event means anything in this state."""
        return event in TRANSITIONS[self.state]

    def handle(self, event: Event, now_s: float) -> None:
        """Goes on to the next state; without one for the event, nothing changes."""
        if not self.takes(event):
            return
        if self.state is State.PLAYING:
            self._waiting_since_s = now_s
        self.state = TRANSITIONS[self.state][event]
        hello_s, notice_s = WAITS[event]
        if hello_s == BACKOFF_S:
            hello_s = doubled_s(self._failures, SHORTEST_DELAY_S, LONGEST_DELAY_S) * self._jitter()
            self._failures += 1
        if hello_s is not None:
            self.hello_due_s = math.inf if self.state is State.CONNECTING else now_s + hello_s
        if notice_s is not None:
            self._notice_due_s = now_s + notice_s

    def work(self) -> None:
        """The learner works with the session, so that the next trouble is a new one."""
        self._failures = 0

    def leave(self, exit_code: int) -> None:
        """Ends in LEAVING; the first reason to leave counts."""
        if self.exit_code is None:
            self.state, self.exit_code, self.hello_due_s = State.LEAVING, exit_code, math.inf

    def hasten_notice(self, now_s: float) -> None:
        """There is news for the person who watches."""
        self._notice_due_s = now_s

    def take_notice(self, now_s: float) -> bool:
        """Whether to say that there is no session; the next time is a while later."""
        if self.state in (State.PLAYING, State.LEAVING) or now_s < self._notice_due_s:
            return False
        self._notice_due_s = now_s + NOTICE_INTERVAL_S
        return True

    def gives_up(self, now_s: float) -> bool:
        """Whether there has been no session for too long."""
        waits = self.state not in (State.PLAYING, State.LEAVING)
        return waits and now_s >= self._waiting_since_s + self._wait_s
