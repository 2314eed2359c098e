"""Whatever a line of the log is about, a terminal only prints it."""

from __future__ import annotations

import logging
import re
import threading
from io import StringIO

import pytest
from rich.console import Console

from seed.process.logs import PlainFormatter, tell_thread_end
from seed.run import display

ODD = "\x1b]0;title\x07 \x9b2J \u202e\u200b \udcff"
ESCAPED = r"\x1b]0;title\x07 \x9b2J \u202e\u200b \udcff"


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("a", logging.INFO, "a.py", 1, "of %s", (text,), None)


def test_a_line_is_escaped_and_keeps_its_ends() -> None:
    formatter = PlainFormatter("%(levelname)s %(message)s")
    assert formatter.format(record(f"{ODD}\n    more")) == f"INFO of {ESCAPED}\n    more"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_learners_log_is_escaped(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=terminal, width=200, no_color=True)
    monkeypatch.setattr(display, "CONSOLE", console)
    monkeypatch.setattr("sys.stderr", written)
    display.log_handler().emit(record(ODD))
    # What remains without the colours that rich adds.
    assert ESCAPED in re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_librarys_thread_that_a_full_disk_ends_needs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    others: list[object] = []
    monkeypatch.setattr(threading, "__excepthook__", others.append)
    monkeypatch.setattr(threading, "excepthook", tell_thread_end)

    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    full = isinstance(error, OSError)
    said = "a thread of a library has ended ([Errno 28] No space left on device)"
    assert caplog.messages == ([said] if full else [])
    assert len(others) == (0 if full else 1)
