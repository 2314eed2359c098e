"""All of inference's I/O: receive, decide, batch, forward, reply. Runs in a thread of its own.

What a message means is decided in `sessions.py`, and which rows go next in `batcher.py` or, in
lock-step, `rounds.py`. None of them knows the socket or reads the clock; this module does.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import zmq

from seed.config.schema import InferenceConfig
from seed.inference.admission import Admission
from seed.inference.batcher import Batcher, InferenceBatch, Schedule, Turn, WaitingStep
from seed.inference.forward import ForwardPass
from seed.inference.rounds import Rounds
from seed.inference.sessions import Offer, Sessions
from seed.process.waker import Waker
from seed.store.pages import PageLinks
from seed.store.ready_queue import RoundPages
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import Authentication
from seed.transport.file_limits import Listener
from seed.transport.socket_files import SocketFile
from seed.transport.sockets import bind, drain, receive, send
from seed.wire import codec, messages
from seed.wire.limits import MOST_FRAMES

_IDLE_POLL_MS = 20
_HOUSEKEEPING_S = 1.0
_FAREWELL_MS = 200
_LONGEST_FAREWELL_S = 2.0


class BatchRecord(NamedTuple):
    """One batch, for the metrics.

    Attributes:
        rows: Rows of the batch.
        latency_s: From reading its oldest message off the socket to having sent its actions; of
            rows that lock-step held, from the round's beginning.
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


class RoundRecord(NamedTuple):
    """The end of a round of lock-step, of which the learner gets a batch."""


Record: TypeAlias = BatchRecord | EpisodeRecord | RoundRecord


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
        rounds: Rounds | None = None,
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
            publish: Gets the pages that a batch made whole; not in lock-step.
            rounds: For lock-step with the learner: the store gets what each round made whole, and
                acting waits until `slot` says that the learner is done with it.
            authentication: Who may connect; None where there are no keys.

        Raises:
            ConfigError: where the address cannot be bound.
        """
        offer.check()
        self.env_steps = 0
        self.records: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self.paused_s = 0.0
        self.phases = forward.phases
        self.authentication = authentication
        self._config = config
        self._forward = forward
        self._store = store
        self._slot = slot
        self._queue_limit, self._publish = queue_limit, publish
        self._admission = Admission(authentication.allowed if authentication else None)
        self._rounds = rounds
        self._schedule: Schedule = Batcher(config) if rounds is None else rounds
        # Of the present round, and the rounds that the learner was done with when it began.
        self._complete: list[PageLinks] = []
        self._rounds_done = slot.rounds
        self._round_began_s = 0.0
        self._sessions = Sessions(
            config, offer, self._admission, self._schedule, store.evaluation,
            drop=store.drop, set_connected=forward.set_connected,
        )  # fmt: skip
        self.faults, self.server_of = self._sessions.faults, self._sessions.server_of
        self._next_housekeeping_s = 0.0
        self._draining = False
        self._socket = bind(
            config.address, offer.largest_frame_bytes(config.max_batch), authentication
        )
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._waker, self._poller = Waker(), zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)
        if rounds is not None:
            slot.on_round_end = self._waker.wake
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
                self._receive()
                turn = self._next_turn()
                if turn is not None:
                    self._serve(turn)
                self._check_periodically()
        finally:
            self._say_goodbye(farewell())
            self._listener.close()
            self._socket.close(linger=_FAREWELL_MS)
            self._waker.close()
            self._socket_file.remove()

    def _take_weights(self) -> None:
        weights = self._slot.take()
        if weights is not None:
            self.phases.enter("weights")
            self._forward.load_weights(weights)

    def _receive(self) -> None:
        """Reads everything that has arrived, up to a full batch; waits only for the first."""
        self.phases.enter("receiving")
        # Down to whole milliseconds: what is left of `max_wait_us` is too short to sleep.
        timeout_ms = int(min(1e3 * self._schedule.wait_s(time.monotonic()), _IDLE_POLL_MS))
        # No more messages than rows either: a flood of refused ones must not keep batches waiting.
        for _ in range(self._config.max_batch):
            if self._schedule.is_full:
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
        """Whether a message came before the timeout, and before the learner's call to go on."""
        self.phases.enter("waiting")
        ready = dict(self._poller.poll(timeout_ms))
        if self._waker.fileno() in ready:
            self._waker.clear()
        self.phases.enter("receiving")
        return self._socket in ready

    def _handle(self, identity: bytes, frames: list[messages.Frame], key: str) -> None:
        self._draining = len(frames) > MOST_FRAMES
        for reply in self._sessions.handle(identity, frames, key, time.monotonic()):
            self._send(*reply)

    def _send(self, identity: bytes, message: messages.Message) -> None:
        if not send(self._socket, identity, codec.encode(message)):
            self._sessions.undelivered(message, time.monotonic())

    def _next_turn(self) -> Turn | None:
        """What to run now; None, after a pause, where the learner has no room for it."""
        self.phases.enter("batching")
        now_s = time.monotonic()
        if self._rounds is not None:
            self._keep_rounds(self._rounds)
        turn = self._schedule.next(now_s, self._has_room)
        if turn is None and not self._schedule.wait_s(now_s):
            if self._rounds is not None:
                # Waiting would be for ever: the learner has no page before the round's end.
                raise RuntimeError("the store has no room for all rows of a round")
            self._pause()
        return turn

    def _keep_rounds(self, rounds: Rounds) -> None:
        """Hands a round that has ended to the learner; begins the next once that is done."""
        if rounds.take_end():
            self._rounds_done = self._slot.rounds
            pages, self._complete = self._complete, []
            if pages:
                self.records.put(RoundRecord())
                self._store.publish_round(RoundPages(self._by_env_id(pages), self.env_steps))
            else:
                rounds.begin()
        elif self._slot.rounds > self._rounds_done:
            self._rounds_done = self._slot.rounds
            # What the learner has published before it said so.
            self._take_weights()
            self._round_began_s = time.monotonic()
            rounds.begin()

    def _by_env_id(self, pages: list[PageLinks]) -> list[PageLinks]:
        owners = self._store.owners(pages)
        return [links for _, links in sorted(zip(owners, pages, strict=True))]

    def _has_room(self, batch: InferenceBatch) -> bool:
        full = self._store.num_ready >= self._queue_limit
        return not full and self._store.has_room(batch.env_ids, batch.run_ids)

    def _pause(self) -> None:
        """Waits for the learner to take or hand back pages; messages are read in between."""
        self.phases.enter("paused")
        start_s = time.monotonic()
        self._store.wait_for_release(_IDLE_POLL_MS / 1e3)
        self.paused_s += time.monotonic() - start_s

    def _serve(self, turn: Turn) -> None:
        """Runs one batch and sends the groups their actions."""
        if turn.act:
            actions, complete = self._run(turn)
            self.phases.enter("replying")
            end = 0
            for step in turn.steps:
                start, end = end, end + len(step.rows.env_ids)
                self._reply(step, actions[start:end])
            arrived_s = min(step.arrived_s for step in turn.steps)
            if not turn.store:
                arrived_s = max(arrived_s, self._round_began_s)
            self.records.put(BatchRecord(end, time.monotonic() - arrived_s))
        else:
            complete = self._forward.store(turn.batch, turn.start)
        if turn.store:
            self._count(turn)
        if self._rounds is None:
            self._publish(complete)
        else:
            self._complete += complete

    def _run(self, turn: Turn) -> tuple[npt.NDArray[Any], list[PageLinks]]:
        """Actions `[n, *shape]` for all rows, and the pages that are now whole."""
        if turn.store:
            return self._forward.run(turn.batch, turn.start)
        return self._forward.act(turn.batch), []

    def _count(self, turn: Turn) -> None:
        """Counts the steps and episodes that new rows tell of."""
        for step in turn.steps:
            if len(step.rows.arrays.episodes):
                self._record_episodes(step)
        flags = turn.batch.flags
        self.env_steps += len(flags) - int(np.count_nonzero(flags & messages.FIRST))

    def _reply(self, step: WaitingStep, actions: npt.NDArray[Any]) -> None:
        session, frame = step.session, actions.tobytes()
        self._send(
            session.identity, messages.Actions(session.number, step.group, step.seq, frame)
        )

    def _record_episodes(self, step: WaitingStep) -> None:
        for index, length_steps, episode_return in step.rows.arrays.episodes.tolist():
            env_id = int(step.rows.env_ids[index])
            evaluation = bool(self._store.evaluation[env_id])
            self.records.put(EpisodeRecord(env_id, episode_return, length_steps, evaluation))

    def _check_periodically(self) -> None:
        """What is due once a second, and the limit of open files more often."""
        now_s = time.monotonic()
        if now_s >= self._next_housekeeping_s:
            self._next_housekeeping_s = now_s + _HOUSEKEEPING_S
            self._socket_file.check(now_s)
            for reply in self._sessions.expire(now_s):
                self._send(*reply)
        self._listener.check(now_s)

    def _say_goodbye(self, reason: str) -> None:
        for reply in self._sessions.farewell(reason):
            self._send(*reply)
        # A connection closed with unread messages is reset, and the goodbye would be lost with it.
        deadline_s = time.monotonic() + _LONGEST_FAREWELL_S
        while time.monotonic() < deadline_s and self._socket.poll(_FAREWELL_MS):
            receive(self._socket)
