"""Environment servers that connect and leave, told in the log: the first few each, then how many.

Whoever may connect can do so as often as the network allows; the log stays one that people read.
"""

from __future__ import annotations

import logging

from seed.process.rates import RateLimit
from seed.wire.terminal import counted, printable

log = logging.getLogger(__name__)

_LINE_INTERVAL_S, _LINES_AT_ONCE = 1.0, 20
_SUM_INTERVAL_S = 10.0
_LONGEST_REASON = 250


class SessionLog:
    """Tells of sessions that begin and end. Owned by the inference thread."""

    def __init__(self) -> None:
        self._arrivals = RateLimit(_LINE_INTERVAL_S, _LINES_AT_ONCE)
        self._departures = RateLimit(_LINE_INTERVAL_S, _LINES_AT_ONCE)
        self._sums = RateLimit(_SUM_INTERVAL_S)
        self._untold_arrivals = self._untold_departures = 0
        self._last_departure = ""

    def connected(self, name: str, num_envs: int, key_name: str, now_s: float) -> None:
        """A server has a session, at `time.monotonic()`; `key_name` is empty without keys."""
        if not self._arrivals.take(now_s):
            self._untold_arrivals += 1
            return
        with_key = f" and the key '{printable(key_name)}'" if key_name else ""
        environments = counted(num_envs, "environment")
        log.info("%s connected with %s%s", printable(name), environments, with_key)

    def left(self, name: str, reason: str, now_s: float) -> None:
        """A server's session has ended."""
        text = f"{printable(name)} left: {printable(reason[:_LONGEST_REASON])}"
        if self._departures.take(now_s):
            log.info("%s", text)
        else:
            self._untold_departures += 1
            self._last_departure = text

    def tell_rest(self, now_s: float) -> None:
        """Says how many were not told one by one; at most every ten seconds."""
        arrivals, departures = self._untold_arrivals, self._untold_departures
        if not (arrivals or departures) or not self._sums.take(now_s):
            return
        self._untold_arrivals = self._untold_departures = 0
        sums = [f"{arrivals} more environment servers connected"] if arrivals else []
        if departures:
            sums.append(f"{departures} more left, the last of them: {self._last_departure}")
        log.info("and %s", "; ".join(sums))
