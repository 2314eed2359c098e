"""How the learner's process is asked to end: SIGINT, SIGTERM and SIGUSR1.

Imports nothing that takes long: a request may come while torch is still being imported.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

log = logging.getLogger(__name__)

EXIT_PREEMPTED, EXIT_INTERRUPTED = 75, 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Process managers signal a process and its group, which is one request that arrives twice.
_SAME_REQUEST_S = 1.0


class Signals:
    """Remembers how the process was asked to end; a second request ends it at once.

    Until `began` there is nothing to save, and the first request ends it at once too. At once means
    without a word to other threads, whatever they are doing: a checkpoint that is being written
    then stays unfinished, and is never taken for one.

    Attributes:
        asked: Whether a request has come.
        exit_code: What the process returns because of it, 0 where none has come.
    """

    def __init__(self) -> None:
        """Takes over the three signals; called by the main thread."""
        self.asked = False
        self.exit_code = 0
        self._began = False
        self._asked_s = 0.0
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def began(self) -> None:
        """From here on a request is remembered, and the caller looks at `asked`."""
        self._began = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_PREEMPTED
        if not self._began:
            _leave("stopped before the training began", exit_code)
        now_s = time.monotonic()
        if not self.asked:
            self.asked, self._asked_s, self.exit_code = True, now_s, exit_code
            log.info("stopping; a checkpoint is being written")
        elif now_s - self._asked_s >= _SAME_REQUEST_S:
            _leave("stopped at once, by a second signal", 128 + number)


def _leave(words: str, exit_code: int) -> None:
    """Ends the process from within a signal handler."""
    # Neither by an exception, which whatever runs now could swallow, nor by the signal itself,
    # which does nothing to the first process of a container.
    os.write(2, f"seed-learner: {words}\n".encode())
    os._exit(exit_code)
