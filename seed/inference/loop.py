"""The socket's loop: receive, batch, forward, reply. Runs in a thread of its own.

Work-conserving: whenever the device is free, every row that has arrived goes into the next batch.
`min_batch` may hold a batch back, for `max_wait_us` at most, and never once all rows are there.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zmq

from seed.config.schema import InferenceConfig
from seed.inference.admission import Admission
from seed.inference.arrivals import ArrivalLog
from seed.inference.fault_log import FaultLog
from seed.inference.forward import ForwardPass, GroupRows, InferenceBatch
from seed.inference.session_table import NoRoom, Refused, Session, SessionTable
from seed.inference.sessions import Offer
from seed.store.fleet import tell_missing_evaluation
from seed.store.pages import PageLinks
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import Authentication
from seed.transport.file_limits import Listener
from seed.transport.socket_files import SocketFile
from seed.transport.sockets import MOST_FRAMES, bind, drain, receive, send
from seed.wire import codec, messages
from seed.wire.errors import WireError

_IDLE_POLL_MS = 20
_HOUSEKEEPING_S = 1.0
# Of silence that is enough to test a connection while somebody else wants its room.
_SHORTEST_LEASE_S = 1.0
_FAREWELL_MS = 200
_LONGEST_FAREWELL_S = 2.0


class BatchRecord(NamedTuple):
    """One batch, for the metrics.

    Attributes:
        rows: Rows of the batch.
        latency_s: From reading its oldest message off the socket to having sent its actions.
    """

    rows: int
    latency_s: float


class EpisodeRecord(NamedTuple):
    """One finished episode, for the metrics.

    Attributes:
        env_id: The environment that played it.
        episode_return: Sum of its rewards, as the environment gave them.
        length_steps: Its steps.
        evaluation: Whether this is an evaluation environment.
    """

    env_id: int
    episode_return: float
    length_steps: int
    evaluation: bool


class _Pending(NamedTuple):
    """A checked STEP that waits for its batch."""

    session: Session
    group: int
    seq: int
    step: GroupRows
    arrived_s: float


class Inference:
    """The ROUTER socket and everything that happens between a STEP and its ACTIONS.

    Other threads may read `env_steps`, `endpoint`, `num_envs`, `paused_s`, `phases`, `server_of`,
    `authentication`, the counts of `faults` and the queue `records`. `paused_s` counts the seconds
    in which rows waited for the learner to make room.
    """

    def __init__(
        self,
        config: InferenceConfig,
        offer: Offer,
        forward: ForwardPass,
        store: UnrollStore,
        slot: WeightSlot,
        *,
        queue_limit: int,
        publish: Callable[[list[PageLinks]], None],
        authentication: Authentication | None = None,
    ) -> None:
        """Binds the socket, so that a busy port is known before anything starts.

        Args:
            config: Address, batching and limits.
            offer: What environment servers are told to run.
            forward: The acting network; this object's own from here on.
            store: Where rows go.
            slot: Where new weights come from.
            queue_limit: Whole pages in the store's queue at which batches pause.
            publish: Gets the pages that a batch made whole.
            authentication: Who may connect; None where there are no keys.

        Raises:
            ConfigError: where the address cannot be bound.
        """
        offer.check()
        self.env_steps = 0
        self.records: queue.SimpleQueue[BatchRecord | EpisodeRecord] = queue.SimpleQueue()
        self.faults = FaultLog()
        self.paused_s = 0.0
        self.phases = forward.phases
        self.authentication = authentication
        self._config = config
        self._offer = offer
        self._forward = forward
        self._store = store
        self._slot = slot
        self._queue_limit, self._publish = queue_limit, publish
        self._sessions = SessionTable(config.max_envs, config.max_batch, config.max_envs_per_key)
        self.server_of = self._sessions.server_of
        self._admission = Admission(authentication.allowed if authentication else None)
        self._arrivals = ArrivalLog()
        self._sessions_opened = 0
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._pending_rows = 0
        self._next_housekeeping_s = 0.0
        self._room_wanted = False
        self._socket = bind(
            config.address, offer.largest_frame_bytes(config.max_batch), authentication
        )
        self._draining = False
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._listener, self._socket_file = Listener(self.endpoint), SocketFile(self.endpoint)

    @property
    def num_envs(self) -> int:
        """Environments connected."""
        return self._sessions.num_envs

    @property
    def messages_refused(self) -> int:
        """Messages that could not be used."""
        return self._admission.messages_refused

    @property
    def messages_dropped(self) -> int:
        """Messages that were not even decoded: of keys that are revoked, and of muted ones."""
        return self._admission.messages_dropped

    def run(self, stop: threading.Event, farewell: Callable[[], str]) -> None:
        """Serves until `stop` is set, then says goodbye with the farewell as its reason."""
        self._forward.enter_thread(self._config.threads)
        try:
            while not stop.is_set():
                self._take_weights()
                self._receive(self._poll_ms())
                batch = self._next_batch()
                if batch is not None:
                    self._serve(*batch)
                self._keep_house()
                self._listener.check()
        finally:
            self._say_goodbye(farewell())
            self._listener.close()
            self._socket.close(linger=_FAREWELL_MS)
            self._socket_file.remove()

    def _say_goodbye(self, reason: str) -> None:
        for session in self._sessions:
            self._send(session.identity, messages.Goodbye(session.number, reason))
        # A connection closed with unread messages is reset, and the goodbye would be lost with it.
        deadline_s = time.monotonic() + _LONGEST_FAREWELL_S
        while time.monotonic() < deadline_s and self._socket.poll(_FAREWELL_MS):
            receive(self._socket)

    def _poll_ms(self) -> int:
        """How long the first message may be waited for: not at all while there is work."""
        if not self._pending:
            return _IDLE_POLL_MS
        # Down to whole milliseconds: what is left of `max_wait_us` is too short to sleep.
        return int(self._spare_s() * 1e3)

    def _take_weights(self) -> None:
        weights = self._slot.take()
        if weights is not None:
            self.phases.enter("weights")
            self._forward.load_weights(weights)

    # --- receiving -------------------------------------------------------------------------------

    def _receive(self, timeout_ms: int) -> None:
        """Reads everything that has arrived, up to a full batch; waits only for the first."""
        self.phases.enter("receiving")
        # No more messages than rows either: a flood of refused ones must not keep batches waiting.
        for _ in range(self._config.max_batch):
            if self._pending_rows >= self._config.max_batch:
                return
            if self._draining:
                self._draining = not drain(self._socket)
                return
            message = receive(self._socket, with_key=self.authentication is not None)
            if message is not None:
                self._handle(*message)
            elif not timeout_ms or not self._wait(timeout_ms):
                return
            timeout_ms = 0

    def _wait(self, timeout_ms: int) -> bool:
        """Whether a message came before the timeout."""
        self.phases.enter("waiting")
        arrived = bool(self._socket.poll(timeout_ms))
        self.phases.enter("receiving")
        return arrived

    def _handle(self, identity: bytes, frames: list[messages.Frame], key: str) -> None:
        """Acts on one message; a bad one is refused and never ends anything but itself."""
        self._draining = len(frames) > MOST_FRAMES
        if not self._admission.admits(identity, key):
            return
        session = 0
        try:
            message = codec.decode(frames)
            session = getattr(message, "session", 0)
            if isinstance(message, messages.Step):
                self._handle_step(identity, message, key)
            elif isinstance(message, messages.Hello):
                self._handle_hello(identity, message, key)
            elif isinstance(message, messages.Goodbye):
                self._handle_goodbye(identity, message, key)
            elif isinstance(message, messages.Fault):
                self._handle_fault(identity, message, key)
            else:
                raise WireError(f"{type(message).__name__} is not for a learner")
        except WireError as error:
            self._refuse(identity, messages.Refusal(f"malformed message: {error}", False, session))
        except Refused as refused:
            self._room_wanted |= isinstance(refused, NoRoom)
            self._refuse(identity, messages.Refusal(str(refused), refused.retry, session))

    def _refuse(self, identity: bytes, refusal: messages.Refusal) -> None:
        self._send(identity, refusal)
        muted = self._admission.refuse(
            identity, refusal.reason, time.monotonic(), mute=self._draining
        )
        for session in self._sessions if muted else ():
            if session.identity == identity:
                self._dismiss(session, "too many messages that cannot be used")

    def _handle_goodbye(self, identity: bytes, goodbye: messages.Goodbye, key: str) -> None:
        session = self._sessions.find(goodbye.session, identity, key)
        if session is not None:
            self._close(session, goodbye.reason)

    def _handle_fault(self, identity: bytes, fault: messages.Fault, key: str) -> None:
        session = self._sessions.find(fault.session, identity, key)
        if session is None:
            return
        now_s = session.heard_s = time.monotonic()
        env_ids = session.named(fault.group, fault.index)
        self.faults.note(session.hello.server_id, session.hello.name, fault, env_ids, now_s)

    def _handle_hello(self, identity: bytes, hello: messages.Hello, key: str) -> None:
        if not self._admission.allows(identity, time.monotonic()):
            raise Refused("HELLO comes too often", retry=True)
        earlier = self._sessions.predecessor(hello, key)
        if earlier is not None:
            self._close(earlier, "it connected anew")
        session = self._sessions.open(hello, identity, time.monotonic(), key)
        self.faults.begin(session.number, hello.name, hello.num_envs)
        self._forward.set_connected(self._sessions.env_ids)
        self._sessions_opened += 1
        seeds = self._offer.draw_seeds(hello.num_envs, self._sessions_opened)
        welcome = self._offer.welcome(session.number, session.all_env_ids, seeds)
        if self._send(identity, welcome):
            key_name = self._admission.name_of(key)
            self._arrivals.connected(hello.name, hello.num_envs, key_name, session.heard_s)
            if self._sessions_opened == 1:
                tell_missing_evaluation(hello.num_envs, self._store.evaluation)
        else:
            self._close(session, "it left during the handshake")

    def _handle_step(self, identity: bytes, message: messages.Step, key: str) -> None:
        session = self._sessions.find(message.session, identity, key)
        if session is None:
            raise Refused("the session has ended; say HELLO again", retry=True)
        session.heard_s = time.monotonic()
        if message.group >= len(session.env_ids):
            raise WireError(f"group: expected below {len(session.env_ids)}")
        env_ids = session.env_ids[message.group]
        arrays = codec.check_step(message, self._offer.observation, len(env_ids))
        expected = session.next_seq[message.group]
        if message.seq < expected:
            return  # a double, or an old message that came late
        # Ahead of a lost STEP, or of one that still waits: a row is missing either way.
        if message.seq > expected or (session.number, message.group) in self._pending:
            self._store.drop(env_ids)
            self._forget(session, message.group)
        session.next_seq[message.group] = message.seq + 1
        self._pending[session.number, message.group] = _Pending(
            session, message.group, message.seq, GroupRows(env_ids, arrays), session.heard_s
        )
        self._pending_rows += len(env_ids)

    def _forget(self, session: Session, group: int) -> None:
        """Takes a group's waiting STEP, if there is one, out of what waits."""
        if self._pending.pop((session.number, group), None) is not None:
            self._pending_rows -= len(session.env_ids[group])

    # --- batching --------------------------------------------------------------------------------

    def _next_batch(self) -> tuple[list[_Pending], InferenceBatch] | None:
        """The oldest waiting groups that fit one batch; None while it is better to wait."""
        self.phases.enter("batching")
        if not self._pending or self._spare_s() > 0:
            return None
        groups: list[_Pending] = []
        rows = 0
        for pending in self._pending.values():
            rows += len(pending.step.env_ids)
            if rows > self._config.max_batch:
                break
            groups.append(pending)
        batch = InferenceBatch.of([pending.step for pending in groups])
        full = self._store.num_ready >= self._queue_limit
        if full or not self._store.has_room(batch.env_ids, batch.run_ids):
            self._pause()
            return None
        for pending in groups:
            self._forget(pending.session, pending.group)
        return groups, batch

    def _pause(self) -> None:
        """Waits for the learner to take or hand back pages; messages are read in between."""
        self.phases.enter("paused")
        start_s = time.monotonic()
        self._store.wait_for_release(_IDLE_POLL_MS / 1e3)
        self.paused_s += time.monotonic() - start_s

    def _spare_s(self) -> float:
        """Seconds for which it is still better to wait for more rows than to run these."""
        if self._pending_rows >= min(self._config.min_batch, self._sessions.num_envs):
            return 0.0
        oldest_s = next(iter(self._pending.values())).arrived_s
        return max(0.0, oldest_s + self._config.max_wait_us * 1e-6 - time.monotonic())

    def _serve(self, groups: list[_Pending], batch: InferenceBatch) -> None:
        """Runs one batch and sends the groups their actions."""
        actions, complete = self._forward.run(batch)
        self.phases.enter("replying")
        end = 0
        for pending in groups:
            start, end = end, end + len(pending.step.env_ids)
            self._reply(pending, actions[start:end])
            if len(pending.step.arrays.episodes):
                self._record_episodes(pending)
        self.env_steps += end - int(np.count_nonzero(batch.flags & messages.FIRST))
        self._publish(complete)
        self.records.put(BatchRecord(end, time.monotonic() - groups[0].arrived_s))

    def _reply(self, pending: _Pending, actions: npt.NDArray[Any]) -> None:
        frame = actions.tobytes()
        message = messages.Actions(pending.session.number, pending.group, pending.seq, frame)
        if not self._send(pending.session.identity, message):
            self._close(pending.session, "the connection is gone")

    def _record_episodes(self, pending: _Pending) -> None:
        arrays = pending.step.arrays
        for index, length_steps, episode_return in arrays.episodes.tolist():
            env_id = int(pending.step.env_ids[index])
            evaluation = bool(self._store.evaluation[env_id])
            self.records.put(EpisodeRecord(env_id, episode_return, length_steps, evaluation))

    # --- sessions --------------------------------------------------------------------------------

    def _send(self, identity: bytes, message: messages.Message) -> bool:
        """False where the connection is gone or its peer has stopped reading."""
        return send(self._socket, identity, codec.encode(message))

    def _close(self, session: Session, reason: str) -> None:
        if self._sessions.find(session.number, session.identity, session.key) is None:
            return
        self._store.drop(session.all_env_ids)
        for group in range(len(session.env_ids)):
            self._forget(session, group)
        self._sessions.close(session)
        self.faults.forget(session.number)
        self._forward.set_connected(self._sessions.env_ids)
        self._arrivals.left(session.hello.name, reason, time.monotonic())

    def _dismiss(self, session: Session, reason: str) -> None:
        """Ends a session from this side, and tells its server."""
        self._send(session.identity, messages.Goodbye(session.number, reason))
        self._close(session, reason)

    def _keep_house(self) -> None:
        """Tests the connections of sessions that have been silent for long; ends revoked ones."""
        now_s = time.monotonic()
        if now_s < self._next_housekeeping_s:
            return
        self._next_housekeeping_s = now_s + _HOUSEKEEPING_S
        self.faults.tell_rest(now_s)
        self._arrivals.tell_rest(now_s)
        self._socket_file.check(now_s)
        self._admission.expire(now_s)
        lease_s = self._config.lease_s
        if self._room_wanted:
            # Of those that hold it some may be dead: the successors of killed servers ask first.
            lease_s, self._room_wanted = min(lease_s, _SHORTEST_LEASE_S), False
        for session in self._sessions:
            if not self._admission.is_allowed(session.key):
                self._dismiss(session, "the key is not allowed any more")
                continue
            silent = now_s - session.heard_s > lease_s
            if silent and not self._send(session.identity, messages.Ping(session.number)):
                self._close(session, "the connection is gone")
