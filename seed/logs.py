"""The log's lines: whatever is in them, a terminal only prints it."""

from __future__ import annotations

import logging

from seed.wire.terminal import printable


class PlainFormatter(logging.Formatter):
    """Escapes what others may have put into a line: names of files, texts of environments."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole record; ends of lines stay, as in tracebacks."""
        return printable(super().format(record), lines=True)
