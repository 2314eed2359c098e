"""Whose messages are decoded, and when a connection that sends unusable ones is muted."""

from __future__ import annotations

import logging

from seed.process.rates import LimitedLog, RateLimit
from seed.transport.authentication import AllowList
from seed.wire.limits import MAX_GROUPS
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

# A session that has ended costs a server one refusal for each of its groups, all at once.
_REFUSALS_AT_ONCE = 2 * MAX_GROUPS
_REFUSAL_INTERVAL_S = 0.1
_MUTE_S = 5.0
_LONGEST_REASON = 250
_MOST_REMEMBERED = 10_000


class Admission:
    """Drops messages of keys that are not allowed, and mutes connections that send rubbish.

    Owned by the inference thread.

    Attributes:
        messages_refused: Messages that could not be used.
        messages_dropped: Messages that were not even decoded.
    """

    def __init__(self, allowed: AllowList | None) -> None:
        """Without an allow-list, everybody who reached the socket is let in."""
        self.messages_refused = 0
        self.messages_dropped = 0
        self._allowed = allowed
        self._log = LimitedLog(log)
        # By connection, for HELLOs and what is refused; the oldest are forgotten first.
        self._limits: dict[bytes, RateLimit] = {}
        # Monotonic time until which a connection is not listened to.
        self._muted: dict[bytes, float] = {}

    def is_allowed(self, key: str) -> bool:
        """Whether the key may still talk to the learner."""
        return self._allowed is None or key in self._allowed.names

    def name_of(self, key: str) -> str:
        """What the allow-list calls a key; empty where there are no keys."""
        return "" if self._allowed is None else self._allowed.names.get(key, "")

    def admits(self, identity: bytes, key: str) -> bool:
        """Whether a message is to be decoded; counts it as dropped if not."""
        allowed = self._allowed is None or key in self._allowed.names
        if allowed and identity not in self._muted:
            return True
        self.messages_dropped += 1
        return False

    def refuse(self, identity: bytes, reason: str, now_s: float, *, mute: bool = False) -> bool:
        """Counts and logs a message that cannot be used; whether its connection is muted now."""
        self.messages_refused += 1
        self._log.warn(f"refused a message: {printable(reason[:_LONGEST_REASON])}", now_s)
        if self.allows(identity, now_s) and not mute:
            return False
        self._muted[identity] = now_s + _MUTE_S
        self._log.warn(f"too much that cannot be used: not listening for {_MUTE_S:g} s", now_s)
        return True

    def allows(self, identity: bytes, now_s: float) -> bool:
        """Counts what costs more than a STEP; whether its connection may send that now."""
        limit = self._limits.get(identity)
        if limit is None:
            limit = self._limits[identity] = RateLimit(_REFUSAL_INTERVAL_S, _REFUSALS_AT_ONCE)
        return limit.take(now_s)

    def expire(self, now_s: float) -> None:
        """Listens again to connections that were muted long enough; forgets what is long ago."""
        self._muted = {one: until_s for one, until_s in self._muted.items() if until_s > now_s}
        recent = [item for item in self._limits.items() if not item[1].is_full(now_s)]
        self._limits = dict(recent[-_MOST_REMEMBERED:])
