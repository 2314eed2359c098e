"""Closing what has failed, which may never come to an end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS

_PATIENCE_S = 5.0
# While one of them has not come back, others of its kind will hardly do.
_IMPATIENCE_S = 0.2

_left_behind: list[threading.Thread] = []


def close_failed(close: Callable[[], object]) -> str:
    """Closes what has failed; what there is to say of that, if it takes too long.

    Why it has failed is known: what it raises when it is closed is nothing new.
    """

    def run() -> None:
        with contextlib.suppress(*ENVIRONMENT_ERRORS):
            close()

    # A thread that nobody waits for at the end of the process.
    thread = threading.Thread(target=run, name="close", daemon=True)
    thread.start()
    _left_behind[:] = [left for left in _left_behind if left.is_alive()]
    patience_s = _IMPATIENCE_S if _left_behind else _PATIENCE_S
    thread.join(patience_s)
    if not thread.is_alive():
        return ""
    _left_behind.append(thread)
    return f"(its close() did not return within {patience_s:g} s and was left behind)\n"
