"""Ends a process in which a thread has stopped moving, and says where it stands.

A learner that hangs keeps its machine, and nobody notices; one that exits is started again.

Two guards, as either alone misses something. The main loop calls `Watchdog.check` and counts how
long each thread has been without a sign of life, which is every phase that it enters. And a timer
in C, which needs no Python to run, is wound up again by the same calls: it goes off where the main
loop itself hangs, or where something holds the interpreter.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping

from seed.process.exit_codes import EXIT_FAILED
from seed.process.phases import Phases
from seed.wire.terminal import open_at_once, print_at_once

_STANDARD_ERROR = 2
_WIND_UP_S = 1.0
# A process that was stopped and goes on has missed calls of `check`, which are nobody's silence.
_LONGEST_TICK_S = 1.0


class Watchdog:
    """Watches threads by their phases; owned by the main thread."""

    def __init__(
        self,
        limit_s: float,
        watched: Mapping[threading.Thread, Phases],
        give_up: Callable[[str], None],
    ) -> None:
        """Starts the timer.

        Args:
            limit_s: The longest silence, at least 1 s; 0 for no watchdog.
            watched: Threads that have been started, and where each one leaves its heartbeats.
            give_up: Called with the reason, once a thread has been silent for too long.
        """
        self._limit_s = limit_s
        self._give_up = give_up
        self._watched = dict(watched)
        self._heartbeats = {thread: phases.heartbeats for thread, phases in watched.items()}
        self._silent_s = dict.fromkeys(watched, 0.0)
        self._checked_s = self._wound_up_s = time.monotonic()
        if limit_s:
            # Stacks that nobody reads must not keep the process.
            self._output = open_at_once()
            self._wind_up()

    def check(self) -> None:
        """To be called several times a second; gives up where a thread has stalled."""
        if not self._limit_s:
            return
        now_s = time.monotonic()
        tick_s = min(now_s - self._checked_s, _LONGEST_TICK_S)
        self._checked_s = now_s
        if now_s - self._wound_up_s >= min(_WIND_UP_S, self._limit_s / 4):
            self._wound_up_s = now_s
            self._wind_up()
        for thread, phases in self._watched.items():
            self._listen(thread, phases, tick_s)

    def close(self) -> None:
        """Stops watching."""
        if self._limit_s:
            faulthandler.cancel_dump_traceback_later()
            if self._output != _STANDARD_ERROR:
                os.close(self._output)

    def _wind_up(self) -> None:
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._output)

    def _listen(self, thread: threading.Thread, phases: Phases, tick_s: float) -> None:
        heartbeats = phases.heartbeats
        moved = heartbeats != self._heartbeats[thread] or not thread.is_alive()
        self._heartbeats[thread] = heartbeats
        self._silent_s[thread] = 0.0 if moved else self._silent_s[thread] + tick_s
        if self._silent_s[thread] >= self._limit_s:
            self._give_up(
                f"the {thread.name} thread has made no sign of life for {self._limit_s:g} s "
                f"(watchdog_s), in its phase {phases.name!r}"
            )


def exit_with_stacks(reason: str, clean_up: Callable[[], None]) -> None:
    """Prints the reason and every thread's stack, cleans up, and ends the process with code 1.

    No thread is waited for, and nothing is saved: the newest checkpoint is from before.
    """
    print_at_once(f"seed-learner: {reason}; giving up. All threads:\n")
    faulthandler.dump_traceback(file=open_at_once(), all_threads=True)
    try:
        clean_up()
    finally:
        os._exit(EXIT_FAILED)
