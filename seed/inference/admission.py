"""What comes before a message is used: is it read at all, and what if it cannot be used?

Owned by the inference thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from seed.config.schema import ConfigError
from seed.process.rates import LimitedLog, RateLimit
from seed.transport.authentication import AllowList
from seed.wire import codec, messages
from seed.wire.arrays import Int64Array
from seed.wire.errors import WireError
from seed.wire.limits import MAX_GROUPS
from seed.wire.spaces import SpaceSpec
from seed.wire.terminal import printable

log = logging.getLogger(__name__)


# A session that has ended costs a server one refusal for each of its groups, all at once.
_REFUSALS_AT_ONCE = 2 * MAX_GROUPS
_REFUSAL_INTERVAL_S = 0.1
_MUTE_S = 5.0
_LONGEST_REASON = 250
_MOST_REMEMBERED = 10_000
_SMALLEST_FRAME_LIMIT_BYTES = 65_536


@dataclass(frozen=True)
class Offer:
    """What a WELCOME tells an environment server to run."""

    environment: dict[str, Any]
    observation: SpaceSpec
    action: SpaceSpec
    seed: tuple[int, ...]

    def welcome(self, session: int, env_ids: Int64Array, seeds: Int64Array) -> messages.Welcome:
        """The WELCOME for one session."""
        return messages.Welcome(
            session, self.environment, self.observation, self.action, env_ids, seeds
        )

    def draw_seeds(self, num_envs: int, sessions_opened: int) -> Int64Array:
        """A seed for each environment of the newest session. `[num_envs] int64`"""
        sequence = np.random.SeedSequence((*self.seed, sessions_opened))
        return (sequence.generate_state(num_envs) >> 1).astype(np.int64)

    def largest_frame_bytes(self, max_batch: int) -> int:
        """Bytes beyond which a connection is cut; below, a wrong frame is told what is wrong."""
        return max(_SMALLEST_FRAME_LIMIT_BYTES, max_batch * self.observation.nbytes)

    def check(self) -> None:
        """Raises ConfigError where a WELCOME could not be read by an environment server."""
        none = np.zeros(0, np.int64)
        try:
            codec.decode(codec.encode(self.welcome(2**63, none, none)))
        except WireError as error:
            raise ConfigError(
                f"environment: too large to be sent to environment servers ({error}); shorten the "
                "texts in environment.kwargs, to 250 bytes each and 3000 in all"
            ) from None


class Admission:
    """Turns away what no allowed key has sent, and connections that send too much rubbish.

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
