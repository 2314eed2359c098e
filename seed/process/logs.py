"""The log's lines: whatever is in them, a terminal only prints it."""

from __future__ import annotations

import logging
import threading

from seed.wire.terminal import printable

log = logging.getLogger(__name__)


def tell_thread_end(arguments: threading.ExceptHookArgs) -> None:
    """In the place of `threading.excepthook`: a library's thread that a file fails needs one line.

    Whoever uses the library meets the error again, and says what it costs.
    """
    if isinstance(arguments.exc_value, OSError):
        log.error("a thread of a library has ended (%s)", arguments.exc_value)
    else:
        threading.__excepthook__(arguments)


class PlainFormatter(logging.Formatter):
    """Escapes what others may have put into a line: names of files, texts of environments."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole record; ends of lines stay, as in tracebacks."""
        return printable(super().format(record), lines=True)
