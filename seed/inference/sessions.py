"""What becomes of each message of an environment server. No socket, no thread, no clock.

A STEP goes to the schedule of batches; whatever else is to be said comes back as replies, for the
loop to send.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from seed.config.schema import ConfigError, InferenceConfig
from seed.inference.admission import Admission
from seed.inference.batcher import GroupRows, Schedule, WaitingStep
from seed.inference.fault_log import FaultLog
from seed.inference.session_log import SessionLog
from seed.inference.session_table import NoRoom, Refused, Session, SessionTable
from seed.store.fleet import tell_missing_evaluation
from seed.wire import codec, messages
from seed.wire.arrays import BoolArray, Int64Array
from seed.wire.errors import WireError
from seed.wire.limits import MOST_FRAMES
from seed.wire.spaces import SpaceSpec

# A connection's identity, and what it is told.
Reply: TypeAlias = tuple[bytes, messages.Message]

# Silence that is long enough to test a connection while somebody else wants its room.
_SHORTEST_LEASE_S = 1.0
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

    def draw_seeds(self, env_ids: Int64Array, times: Int64Array) -> Int64Array:
        """A seed for each environment, whoever was welcomed first. `[n] int64`

        Args:
            env_ids: `[n] int64`
            times: How often each has been given one before, so that none is a repetition.
                `[n] int64`
        """
        sources = zip(env_ids.tolist(), times.tolist(), strict=True)
        states = [np.random.SeedSequence((*self.seed, *each)).generate_state(1) for each in sources]
        return (np.concatenate(states) >> 1).astype(np.int64)

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


class Sessions:
    """Decides on messages. Every method that needs the time is told it, as `now_s`.

    Owned by the inference thread; others may call `server_of` and read the counts.

    Attributes:
        faults: What environment servers have reported of their environments.
    """

    def __init__(
        self,
        config: InferenceConfig,
        offer: Offer,
        admission: Admission,
        schedule: Schedule,
        evaluation: BoolArray,
        *,
        drop: Callable[[Int64Array], None],
        set_connected: Callable[[Int64Array], None],
    ) -> None:
        """Nobody is connected.

        Args:
            config: Limits and the lease.
            offer: What environment servers are told to run.
            admission: Whose messages are read at all.
            schedule: Gets the STEPs.
            evaluation: Which env_ids are evaluation environments. `[max_envs] bool`
            drop: Called with the env_ids whose histories have broken.
            set_connected: Called with all connected env_ids whenever they change.
        """
        self.faults = FaultLog()
        self._lease_s = config.lease_s
        self._offer, self._admission, self._schedule = offer, admission, schedule
        self._evaluation = evaluation
        self._drop, self._set_connected = drop, set_connected
        self._table = SessionTable(config.max_envs, config.max_batch, config.max_envs_per_key)
        self.server_of = self._table.server_of
        self._log = SessionLog()
        self._opened = 0
        # Seeds given to each environment. [max_envs] int64
        self._seeded = np.zeros(config.max_envs, np.int64)
        self._room_wanted = False

    @property
    def num_envs(self) -> int:
        """Environments connected."""
        return self._table.num_envs

    def handle(
        self, identity: bytes, frames: Sequence[messages.Frame], key: str, now_s: float
    ) -> Sequence[Reply]:
        """Acts on one message; a bad one is refused and never ends anything but itself.

        Args:
            identity: The ROUTER's name for the connection.
            frames: The message, undecoded; of one with more than MOST_FRAMES, one more than these.
            key: The public key of the connection; empty where the learner has no keys.
            now_s: Monotonic time.
        """
        if not self._admission.admits(identity, key):
            return ()
        session = 0
        try:
            message = codec.decode(frames)
            session = getattr(message, "session", 0)
            if isinstance(message, messages.Step):
                self._take_step(identity, message, key, now_s)
                return ()
            if isinstance(message, messages.Hello):
                return self._welcome(identity, message, key, now_s)
            if isinstance(message, messages.Goodbye):
                return self._take_goodbye(identity, message, key, now_s)
            if isinstance(message, messages.Fault):
                return self._take_fault(identity, message, key, now_s)
            raise WireError(f"{type(message).__name__} is not for a learner")
        except WireError as error:
            refusal = messages.Refusal(f"malformed message: {error}", False, session)
        except Refused as refused:
            self._room_wanted |= isinstance(refused, NoRoom)
            refusal = messages.Refusal(str(refused), refused.retry, session)
        return self._refuse(identity, refusal, now_s, mute=len(frames) > MOST_FRAMES)

    def undelivered(self, message: messages.Message, now_s: float) -> None:
        """A message could not be sent; whose connection has gone has no session any more."""
        if isinstance(message, messages.Welcome | messages.Actions | messages.Ping):
            session = self._table.get(message.session)
            handshake = isinstance(message, messages.Welcome)
            if session is not None:
                reason = "it left during the handshake" if handshake else "the connection is gone"
                self._close(session, reason, now_s)

    def expire(self, now_s: float) -> list[Reply]:
        """Tests the connections of silent sessions and ends revoked ones; about once a second."""
        self.faults.tell_rest(now_s)
        self._log.tell_rest(now_s)
        self._admission.expire(now_s)
        lease_s = self._lease_s
        if self._room_wanted:
            # Of those that hold it some may be dead: the successors of killed servers ask first.
            lease_s, self._room_wanted = min(lease_s, _SHORTEST_LEASE_S), False
        replies: list[Reply] = []
        for session in self._table:
            if not self._admission.is_allowed(session.key):
                replies.append(self._dismiss(session, "the key is not allowed any more", now_s))
            elif now_s - session.heard_s > lease_s:
                replies.append((session.identity, messages.Ping(session.number)))
        return replies

    def farewell(self, reason: str) -> list[Reply]:
        """What every environment server is told before the learner ends."""
        return [(each.identity, messages.Goodbye(each.number, reason)) for each in self._table]

    # --- messages --------------------------------------------------------------------------------

    def _take_step(self, identity: bytes, step: messages.Step, key: str, now_s: float) -> None:
        session = self._table.find(step.session, identity, key)
        if session is None:
            raise Refused("the session has ended; say HELLO again", retry=True)
        session.heard_s = now_s
        if step.group >= len(session.env_ids):
            raise WireError(f"group: expected below {len(session.env_ids)}")
        env_ids = session.env_ids[step.group]
        arrays = codec.check_step(step, self._offer.observation, len(env_ids))
        expected = session.next_seq[step.group]
        if step.seq < expected:
            return  # a double, or an old message that came late
        session.next_seq[step.group] = step.seq + 1
        replaces = self._schedule.add(
            WaitingStep(session, step.group, step.seq, GroupRows(env_ids, arrays), now_s)
        )
        # Ahead of a lost STEP, or of one that still waited: a row is missing either way.
        if replaces or step.seq > expected:
            self._drop(env_ids)

    def _welcome(
        self, identity: bytes, hello: messages.Hello, key: str, now_s: float
    ) -> list[Reply]:
        if not self._admission.allows(identity, now_s):
            raise Refused("HELLO comes too often", retry=True)
        earlier = self._table.predecessor(hello, key)
        if earlier is not None:
            self._close(earlier, "it connected anew", now_s)
        session = self._table.open(hello, identity, now_s, key)
        self._schedule.open(session)
        self.faults.begin(session.number, hello.name, hello.num_envs)
        self._set_connected(self._table.env_ids)
        self._opened += 1
        self._log.connected(hello.name, hello.num_envs, self._admission.name_of(key), now_s)
        if self._opened == 1:
            tell_missing_evaluation(hello.num_envs, self._evaluation)
        env_ids = session.all_env_ids
        seeds = self._offer.draw_seeds(env_ids, self._seeded[env_ids])
        self._seeded[env_ids] += 1
        return [(identity, self._offer.welcome(session.number, env_ids, seeds))]

    def _take_goodbye(
        self, identity: bytes, goodbye: messages.Goodbye, key: str, now_s: float
    ) -> Sequence[Reply]:
        session = self._table.find(goodbye.session, identity, key)
        if session is not None:
            self._close(session, goodbye.reason, now_s)
        return ()

    def _take_fault(
        self, identity: bytes, fault: messages.Fault, key: str, now_s: float
    ) -> Sequence[Reply]:
        session = self._table.find(fault.session, identity, key)
        if session is not None:
            session.heard_s = now_s
            env_ids = session.named(fault.group, fault.index)
            self.faults.note(session.hello.server_id, session.hello.name, fault, env_ids, now_s)
        return ()

    def _refuse(
        self, identity: bytes, refusal: messages.Refusal, now_s: float, *, mute: bool
    ) -> list[Reply]:
        replies: list[Reply] = [(identity, refusal)]
        if self._admission.refuse(identity, refusal.reason, now_s, mute=mute):
            for session in self._table:
                if session.identity == identity:
                    reason = "too many messages that cannot be used"
                    replies.append(self._dismiss(session, reason, now_s))
        return replies

    # --- ends ------------------------------------------------------------------------------------

    def _dismiss(self, session: Session, reason: str, now_s: float) -> Reply:
        """Ends a session from this side; what its server is told."""
        self._close(session, reason, now_s)
        return session.identity, messages.Goodbye(session.number, reason)

    def _close(self, session: Session, reason: str, now_s: float) -> None:
        self._drop(session.all_env_ids)
        self._schedule.close(session)
        self._table.close(session)
        self.faults.forget(session.number)
        self._set_connected(self._table.env_ids)
        self._log.left(session.hello.name, reason, now_s)
