"""How the learner's process is asked to end: SIGINT, SIGTERM, SIGUSR1 and SIGHUP.

Imports nothing that takes long: a request may come while torch is still being imported.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from seed.process.exit_codes import EXIT_INTERRUPTED, EXIT_PREEMPTED
from seed.wire.terminal import print_at_once

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# Process managers signal a process and its group, which is one request that arrives twice.
_SAME_REQUEST_S = 1.0


class Signals:
    """Remembers how the process was asked to end; a second request ends it at once.

    Until `began` there is nothing to save, and the first request ends it at once too. At once means
    without a word to other threads, whatever they are doing: a checkpoint that is being written
    then stays unfinished, and is never taken for one. SIGHUP, from a terminal that goes away, is
    never a second request: closing the window after Ctrl-C says nothing about the checkpoint. Where
    it is ignored when the process starts, as by `nohup`, it stays so.

    Attributes:
        stop_requested: Whether a request has come.
        exit_code: What the process returns because of it, 0 where none has come.
    """

    def __init__(self) -> None:
        """Takes over the four signals; called by the main thread."""
        self.stop_requested = False
        self.exit_code = 0
        self._began = False
        self._asked_s = 0.0
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._ask)

    def began(self) -> None:
        """From here on a request is remembered, and the caller looks at `stop_requested`."""
        self._began = True

    @staticmethod
    def over() -> None:
        """From here on requests are ignored: nothing is left to do, and the exit code is decided.

        While the interpreter ends, signals would have their own effect, another exit code.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_PREEMPTED
        if not self._began:
            _leave("stopped before the training began", exit_code)
        now_s = time.monotonic()
        if not self.stop_requested:
            # Nothing is printed here: what this interrupts may be in the middle of printing.
            self.stop_requested, self._asked_s, self.exit_code = True, now_s, exit_code
        elif number != signal.SIGHUP and now_s - self._asked_s >= _SAME_REQUEST_S:
            _leave("stopped at once, by a second signal", 128 + number)


def _leave(words: str, exit_code: int) -> None:
    """Ends the process from within a signal handler."""
    # Neither by an exception, which whatever runs now could swallow, nor by the signal itself,
    # which does nothing to the first process of a container.
    print_at_once(f"seed-learner: {words}\n")
    os._exit(exit_code)
