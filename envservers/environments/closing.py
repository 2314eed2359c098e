"""Closing an environment that has failed: `close` may never return."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS

_PATIENCE_S = 5.0
# While one `close` hangs, others of its kind probably do.
_IMPATIENCE_S = 0.2

_left_behind: list[threading.Thread] = []


def close_failed(close: Callable[[], object]) -> str:
    """Closes what has failed; a line for its traceback where that takes too long, else empty.

    What `close` raises is dropped: why the environment has failed is known already.
    """

    def run() -> None:
        with contextlib.suppress(*ENVIRONMENT_ERRORS):
            close()

    # A daemon, so that the end of the process does not wait for it.
    thread = threading.Thread(target=run, name="close", daemon=True)
    thread.start()
    _left_behind[:] = [left for left in _left_behind if left.is_alive()]
    patience_s = _IMPATIENCE_S if _left_behind else _PATIENCE_S
    thread.join(patience_s)
    if not thread.is_alive():
        return ""
    _left_behind.append(thread)
    return f"(its close() did not return within {patience_s:g} s and was left behind)\n"
