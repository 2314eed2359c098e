"""Where a thread's time goes: seconds by what it was doing."""

from __future__ import annotations

import threading
import time


class Phases:
    """Counts one thread's seconds by phase; other threads may read `seconds`, `name`, `heartbeats`.

    A thread is in one phase at a time, and in none before it has entered the first. Every phase
    that it enters is a sign of life; in a phase that may take minutes it calls `heartbeat` besides.

    Attributes:
        name: The present phase; None before the first and after the last.
        heartbeats: Signs of life so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self.name: str | None = None
        self.heartbeats = 0
        self._since_s = 0.0

    def enter(self, name: str) -> None:
        """Ends the present phase and starts this one; called by the counted thread."""
        self._switch(name)

    def heartbeat(self) -> None:
        """Gives a sign of life and stays in the present phase; called by the counted thread."""
        self.heartbeats += 1

    def leave(self) -> None:
        """Ends the present phase; the thread has nothing more to do."""
        self._switch(None)

    def _switch(self, name: str | None) -> None:
        now_s = time.perf_counter()
        self.heartbeats += 1
        with self._lock:
            self._count(self._seconds, now_s)
            self.name, self._since_s = name, now_s

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far in every phase that was entered, the present one included; a copy."""
        with self._lock:
            seconds = dict(self._seconds)
            self._count(seconds, time.perf_counter())
        return seconds

    def _count(self, seconds: dict[str, float], now_s: float) -> None:
        if self.name is not None:
            seconds[self.name] = seconds.get(self.name, 0.0) + now_s - self._since_s
