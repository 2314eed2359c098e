"""What comes before a message is used: is it read at all, and what if it cannot be used?

Owned by the inference thread.
"""

from __future__ import annotations

import logging

from seed import wire
from seed.authentication import AllowList
from seed.faults import printable
from seed.rates import LimitedLog, RateLimit

log = logging.getLogger(__name__)

# A session that has ended costs a server one refusal for each of its groups, all at once.
_REFUSALS_AT_ONCE = 2 * wire.MAX_GROUPS
_REFUSALS_PER_S = 10.0
_MUTE_S = 5.0
_LONGEST_REASON = 250
_MOST_REMEMBERED = 10_000


class Reception:
    """Turns away what no allowed key has sent, and connections that send too much rubbish.

    Attributes:
        messages_refused: Messages that could not be used.
        messages_dropped: Messages that were not even decoded.
    """

    def __init__(self, allowed: AllowList | None, now_s: float) -> None:
        """Without an allow-list, everybody who reached the socket is let in."""
        self.messages_refused = 0
        self.messages_dropped = 0
        self._allowed = allowed
        self._log = LimitedLog(log, now_s)
        # By connection; the oldest are forgotten first.
        self._refusals: dict[bytes, RateLimit] = {}
        # Monotonic time until which a connection is not listened to.
        self._muted: dict[bytes, float] = {}

    def complaint(self, identity: bytes, key: str) -> str:
        """Why a session may not stand on this connection any longer; empty where it may."""
        if self._allowed is not None and key not in self._allowed.names:
            return "the key is not allowed any more"
        return "too many messages that cannot be used" if identity in self._muted else ""

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

    def refuse(self, identity: bytes, reason: str, now_s: float, *, mute: bool = False) -> None:
        """Counts and logs a message that cannot be used; too many mute their connection.

        So does a single one where `mute` says so.
        """
        self.messages_refused += 1
        self._log.warn(f"refused a message: {printable(reason[:_LONGEST_REASON])}", now_s)
        limit = self._refusals.get(identity)
        if limit is None:
            limit = self._refusals[identity] = RateLimit(_REFUSALS_AT_ONCE, _REFUSALS_PER_S, now_s)
        if limit.take(now_s) and not mute:
            return
        self._muted[identity] = now_s + _MUTE_S
        self._log.warn(f"too much that cannot be used: not listening for {_MUTE_S:g} s", now_s)

    def keep_house(self, now_s: float) -> None:
        """Listens again to connections that were muted long enough; forgets what is long ago."""
        self._muted = {one: until_s for one, until_s in self._muted.items() if until_s > now_s}
        recent = [item for item in self._refusals.items() if not item[1].is_full(now_s)]
        self._refusals = dict(recent[-_MOST_REMEMBERED:])
