"""Limits on how often something may happen, on a monotonic clock that the caller reads."""

from __future__ import annotations

import logging
import math


class RateLimit:
    """Lets `burst` events pass at once, and one every `interval_s` in the long run."""

    def __init__(self, interval_s: float, burst: float = 1.0) -> None:
        """Full: nothing has happened yet."""
        self._interval_s, self._burst = interval_s, burst
        self._left, self._then_s = burst, -math.inf

    def take(self, now_s: float) -> bool:
        """Whether an event is within the limit; counts it if so."""
        left = self._refilled(now_s)
        if left < 1:
            return False
        self._left, self._then_s = left - 1, now_s
        return True

    def is_full(self, now_s: float) -> bool:
        """Whether nothing has happened for so long that all is forgotten."""
        return self._refilled(now_s) >= self._burst

    def _refilled(self, now_s: float) -> float:
        return min(self._burst, self._left + (now_s - self._then_s) / self._interval_s)


class LimitedLog:
    """Warnings that strangers can cause: the first few are logged, then one a second."""

    def __init__(self, log: logging.Logger, burst: int = 10) -> None:
        """`burst` warnings may come at once."""
        self._log = log
        self._limit = RateLimit(1.0, burst)
        self._left_out = 0

    def warn(self, text: str, now_s: float) -> None:
        """Logs the text, or counts it as left out; the next one that is logged says how many."""
        if not self._limit.take(now_s):
            self._left_out += 1
            return
        more = f" (and {self._left_out} warnings like it left out)" if self._left_out else ""
        self._left_out = 0
        self._log.warning("%s%s", text, more)
