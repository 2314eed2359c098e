"""Closing what has failed, which may never come to an end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from envservers.guard import ANYTHING

_PATIENCE_S = 5.0


def close_failed(close: Callable[[], object]) -> str:
    """Closes what has failed; what there is to say of that, if it takes too long.

    Why it has failed is known: what it raises when it is closed is nothing new.
    """

    def run() -> None:
        with contextlib.suppress(*ANYTHING):
            close()

    # A thread that nobody waits for at the end of the process.
    thread = threading.Thread(target=run, name="close", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if not thread.is_alive():
        return ""
    return f"(its close() did not return within {_PATIENCE_S:g} s and was left behind)\n"
