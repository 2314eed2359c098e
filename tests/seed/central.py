"""The acting side without a learner, on a socket or without one, and who talks to it."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import zmq
from torch import nn

from seed.config.schema import InferenceConfig
from seed.contract import ActOutput
from seed.inference import admission as admission
from seed.inference import loop as inference
from seed.inference.admission import Admission
from seed.inference.batcher import Batcher, InferenceBatch
from seed.inference.forward import ForwardPass
from seed.inference.loop import Inference
from seed.inference.sessions import Offer, Reply, Sessions
from seed.process.threads import ThreadGroup
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import AllowList, Authentication
from seed.wire import codec, messages
from seed.wire.keys import KeyPair
from seed.wire.spaces import SpaceSpec
from tests.seed.acting import Shown, acting, add_up

SPACE = SpaceSpec("int64", ())
OFFER = Offer({"kind": "function", "id": "a:b"}, SPACE, SpaceSpec("int64", (), 100), seed=(5,))
DEADLINE_MS = 300_000
FOR_EVER_US = 3_600_000_000

Episodes = list[tuple[int, int, float]]


class EnvServer:
    """What an environment server says, however it is sent."""

    session = 0

    def send(self, message: messages.Message) -> None:
        self.send_frames(codec.encode(message))

    def send_frames(self, frames: Sequence[messages.Frame]) -> None:
        raise NotImplementedError

    def receive(self) -> messages.Message:
        """The next message that has come, or will."""
        raise NotImplementedError

    def hello(self, *group_sizes: int, server_id: int = 1) -> messages.Welcome:
        self.send(messages.Hello(server_id, group_sizes, f"test {server_id}"))
        welcome = self.receive()
        assert isinstance(welcome, messages.Welcome)
        self.session = welcome.session
        return welcome

    def step(
        self, seq: int, observations: list[int], *, group: int = 0, flags: int = 0,
        episodes: Episodes | None = None,
    ) -> None:  # fmt: skip
        self.step_arrays(seq, np.array(observations), group=group, flags=flags, episodes=episodes)

    def step_arrays(
        self, seq: int, observations: messages.Array, *, group: int = 0,
        flags: int | list[int] = 0, run_ids: int | list[int] = 1, episodes: Episodes | None = None,
    ) -> None:  # fmt: skip
        """A STEP with observations of any form."""
        n = len(observations)
        arrays = messages.StepArrays(
            np.full(n, run_ids, np.uint64), observations, np.zeros(n, np.float32),
            np.full(n, flags, np.uint8), np.array(episodes or [], messages.EPISODE_DTYPE),
        )  # fmt: skip
        self.send(messages.Step(self.session, group, seq, codec.step_frames(arrays)))

    def actions(self, seq: int, group: int = 0) -> list[int]:
        """The actions that must come next, for this group and seq."""
        message = self.receive()
        assert isinstance(message, messages.Actions)
        assert (message.session, message.group, message.seq) == (self.session, group, seq)
        actions: list[int] = np.frombuffer(message.actions, np.int64).tolist()
        return actions

    def exchange(self, seq: int, observations: list[int], *, group: int = 0) -> list[int]:
        """The actions for a STEP."""
        self.step(seq, observations, group=group)
        return self.actions(seq, group)

    def refusal(self) -> messages.Refusal:
        message = self.receive()
        assert isinstance(message, messages.Refusal)
        return message


class Parts(NamedTuple):
    """What inference is made of."""

    config: InferenceConfig
    store: UnrollStore
    forward: ForwardPass


def make_parts(
    choose: Callable[[Shown], ActOutput], unroll_length: int, num_pages: int, settings: Any
) -> Parts:
    config = InferenceConfig(
        **{"address": "tcp://127.0.0.1:*", "max_envs": 6, "max_batch": 6, **settings}
    )
    layout = StoreLayout(
        unroll_length, num_pages, max_envs=config.max_envs, frame_stack=1, state_size=1,
        observations={"": Column((), torch.int64)}, action=Column((), torch.int64), behaviour={},
        evaluation_share=config.evaluation_share,
    )  # fmt: skip
    store = UnrollStore(layout, torch.device("cpu"))
    agent = nn.Linear(1, 1, bias=False)
    nn.init.ones_(agent.weight)
    forward = ForwardPass(acting(choose), None, agent, store, config.max_batch)
    return Parts(config, store, forward)


def take_unrolls(store: UnrollStore, count: int) -> Unroll:
    """Takes unrolls as a learner would, and hands their pages back."""
    pages = store.take(count, DEADLINE_MS / 1000)
    assert pages is not None
    unroll = store.gather(pages)
    store.release(pages)
    return unroll


# --- without a socket ----------------------------------------------------------------------------


class Offline:
    """Inference without its loop: a test sends messages at a time of its own and reads replies.

    Attributes:
        now_s: The time, which stands still unless a test moves it.
        batches: Rows of each batch so far.
        dropped: env_ids whose history was dropped, as often as it was.
    """

    def __init__(
        self, *, unroll_length: int = 2, num_pages: int = 200, queue_limit: int = 100,
        choose: Callable[[Shown], ActOutput] = add_up, allowed: AllowList | None = None,
        offer: Offer = OFFER, **settings: Any,
    ) -> None:  # fmt: skip
        self.now_s = 0.0
        self.batches: list[int] = []
        self.dropped: list[int] = []
        self.config, self.store, self.forward = make_parts(
            choose, unroll_length, num_pages, settings
        )
        self.queue_limit = queue_limit
        self.batcher, self.admission = Batcher(self.config), Admission(allowed)
        self.sessions = Sessions(
            self.config, offer, self.admission, self.batcher, self.store.evaluation,
            drop=self._drop, set_connected=self.forward.set_connected,
        )  # fmt: skip
        self.peers: dict[bytes, Peer] = {}

    def connect(self, key: str = "") -> Peer:
        """A connection of an environment server's own."""
        identity = b"peer %d" % len(self.peers)
        self.peers[identity] = Peer(self, identity, key)
        return self.peers[identity]

    def act(self) -> bool:
        """Runs the next batch; whether there was one."""
        turn = self.batcher.next(self.now_s, self._has_room)
        if turn is None:
            return False
        actions, complete = self.forward.run(turn.batch)
        rows = iter(actions)
        for step in turn.steps:
            chosen = np.array([next(rows) for _ in step.rows.env_ids])
            message = messages.Actions(step.session.number, step.group, step.seq, chosen.tobytes())
            self.deliver([(step.session.identity, message)])
        self.store.publish(complete)
        self.batches.append(len(actions))
        return True

    def expire(self) -> None:
        self.deliver(self.sessions.expire(self.now_s))

    def deliver(self, replies: Sequence[Reply]) -> None:
        for identity, message in replies:
            if self.peers[identity].gone:
                self.sessions.undelivered(message, self.now_s)
            else:
                frames = [bytes(frame) for frame in codec.encode(message)]
                self.peers[identity].inbox.append(codec.decode(frames))

    def unrolls(self, count: int) -> Unroll:
        return take_unrolls(self.store, count)

    def _has_room(self, batch: InferenceBatch) -> bool:
        full = self.store.num_ready >= self.queue_limit
        return not full and self.store.has_room(batch.env_ids, batch.run_ids)

    def _drop(self, env_ids: messages.Array) -> None:
        self.dropped += env_ids.tolist()
        self.store.drop(env_ids)


class Peer(EnvServer):
    """A connection to inference without a loop; what is sent is handled at once.

    Attributes:
        inbox: What has come and was not received yet.
        gone: Whether nothing can be sent to it any more.
    """

    def __init__(self, offline: Offline, identity: bytes, key: str) -> None:
        self.offline, self.identity, self.key = offline, identity, key
        self.inbox: deque[messages.Message] = deque()
        self.gone = False

    def send_frames(self, frames: Sequence[messages.Frame]) -> None:
        received = [bytes(frame) for frame in frames]
        sessions, now_s = self.offline.sessions, self.offline.now_s
        self.offline.deliver(sessions.handle(self.identity, received, self.key, now_s))

    def receive(self) -> messages.Message:
        """What has come; where that is nothing, batches are run until it has."""
        while not self.inbox:
            assert self.offline.act(), "nothing came"
        return self.inbox.popleft()

    def expect_silence(self) -> None:
        while self.offline.act():
            pass
        assert not self.inbox


# --- on a socket ---------------------------------------------------------------------------------


class Central(NamedTuple):
    """Inference in a thread of its own."""

    inference: Inference
    store: UnrollStore
    slot: WeightSlot
    threads: ThreadGroup
    dealers: list[Dealer]

    def connect(
        self, pair: KeyPair | None = None, options: Sequence[tuple[int, int]] = ()
    ) -> Dealer:
        """A connection of an environment server's own; closed together with the rest."""
        authentication = self.inference.authentication
        learner_key = authentication.public_key if authentication else ""
        self.dealers.append(Dealer(self.inference.endpoint, pair, learner_key, options))
        return self.dealers[-1]

    def unrolls(self, count: int) -> Unroll:
        return take_unrolls(self.store, count)


@contextmanager
def central(
    *,
    unroll_length: int = 2,
    num_pages: int = 200,
    queue_limit: int = 100,
    farewell_ms: int = 5,
    refusals_at_once: int = 10**6,
    choose: Callable[[Shown], ActOutput] = add_up,
    authentication: Authentication | None = None,
    **settings: Any,
) -> Iterator[Central]:
    """Serves until the block ends; by default it awaits nobody's last words and mutes nobody."""
    config, store, forward = make_parts(choose, unroll_length, num_pages, settings)
    slot, threads = WeightSlot(), ThreadGroup()
    dealers: list[Dealer] = []
    server = Inference(
        config, OFFER, forward, store, slot, queue_limit=queue_limit, publish=store.publish,
        authentication=authentication,
    )  # fmt: skip
    if authentication:
        threads.start("authentication", lambda: authentication.run(threads.stop))
    threads.start("inference", lambda: server.run(threads.stop, lambda: "the end"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "_FAREWELL_MS", farewell_ms)
        patch.setattr(admission, "_REFUSALS_AT_ONCE", refusals_at_once)
        try:
            yield Central(server, store, slot, threads, dealers)
        finally:
            for dealer in dealers:
                dealer.socket.close()
            try:
                threads.join()
            finally:
                if authentication:
                    authentication.context.term()


class Dealer(EnvServer):
    """An environment server's socket."""

    def __init__(
        self, endpoint: str, pair: KeyPair | None = None, learner_key: str = "",
        options: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), *options):
            self.socket.setsockopt(option, value)
        if pair is not None:
            self.socket.setsockopt_string(zmq.CURVE_SERVERKEY, learner_key)
            self.socket.setsockopt_string(zmq.CURVE_PUBLICKEY, pair.public)
            self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
        self.socket.connect(endpoint)

    def send_frames(self, frames: Sequence[messages.Frame]) -> None:
        self.socket.send_multipart(frames)

    def receive(self) -> messages.Message:
        assert self.socket.poll(DEADLINE_MS), "nothing came"
        return codec.decode(self.socket.recv_multipart())

    def expect_silence(self) -> None:
        """Lets the loop go round, by more messages that it must refuse than it reads at once."""
        for _ in range(12):
            self.send(messages.Ping(0))
            assert "not for a learner" in self.refusal().reason


def drain(records: queue.SimpleQueue[Any]) -> list[Any]:
    return [records.get() for _ in range(records.qsize())]
