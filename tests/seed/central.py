"""A central process without a learner, and an environment server's socket to talk to it."""

from __future__ import annotations

import queue
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
from seed.inference.admission import Offer
from seed.inference.forward import ForwardPass
from seed.inference.loop import Inference
from seed.process.threads import ThreadGroup
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import Authentication
from seed.wire import codec, messages
from seed.wire.keys import KeyPair
from seed.wire.spaces import SpaceSpec
from tests.seed.acting import Shown, acting, add_up

SPACE = SpaceSpec("int64", ())
OFFER = Offer({"kind": "function", "id": "a:b"}, SPACE, SpaceSpec("int64", (), 100), seed=(5,))
DEADLINE_MS = 300_000
FOR_EVER_US = 3_600_000_000


def act_by_standing(shown: Shown) -> ActOutput:
    """The action is 60 times the environment's standing in the fleet; -1 for evaluation."""
    actions = (60 * shown.fleet.positions).round().long()
    return ActOutput(actions.masked_fill(shown.fleet.evaluation, -1), {}, shown.agent_state)


class Central(NamedTuple):
    """A central process without a learner."""

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
        """Takes unrolls as a learner would, and hands their pages back."""
        pages = self.store.take(count, DEADLINE_MS / 1000)
        assert pages is not None
        unroll = self.store.gather(pages)
        self.store.release(pages)
        return unroll


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
    config = InferenceConfig(
        **{"address": "tcp://127.0.0.1:*", "max_envs": 6, "max_batch": 6, **settings}
    )
    layout = StoreLayout(
        unroll_length, num_pages, max_envs=6, frame_stack=1, state_size=1,
        observation=Column((), torch.int64), action=Column((), torch.int64), behaviour={},
        evaluation_share=config.evaluation_share,
    )  # fmt: skip
    store, slot, threads = UnrollStore(layout, torch.device("cpu")), WeightSlot(), ThreadGroup()
    agent = nn.Linear(1, 1, bias=False)
    nn.init.ones_(agent.weight)
    forward = ForwardPass(acting(choose), None, agent, store, config.max_batch)
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


class Dealer:
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
        self.session = 0

    def send(self, message: messages.Message) -> None:
        self.socket.send_multipart(codec.encode(message))

    def receive(self) -> messages.Message:
        assert self.socket.poll(DEADLINE_MS), "nothing came"
        return codec.decode(self.socket.recv_multipart())

    def hello(self, *group_sizes: int, server_id: int = 1) -> messages.Welcome:
        self.send(messages.Hello(server_id, group_sizes, f"test {server_id}"))
        welcome = self.receive()
        assert isinstance(welcome, messages.Welcome)
        self.session = welcome.session
        return welcome

    def step(
        self,
        seq: int,
        observations: list[int],
        *,
        group: int = 0,
        flags: int = 0,
        episodes: list[tuple[int, int, float]] | None = None,
    ) -> None:
        self.step_arrays(seq, np.array(observations), group=group, flags=flags, episodes=episodes)

    def step_arrays(
        self,
        seq: int,
        observations: messages.Array,
        *,
        group: int = 0,
        flags: int = 0,
        episodes: list[tuple[int, int, float]] | None = None,
    ) -> None:
        """A STEP with observations of any form."""
        n = len(observations)
        arrays = messages.StepArrays(
            np.ones(n, np.uint64), observations, np.zeros(n, np.float32),
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

    def refusal(self) -> messages.Refusal:
        message = self.receive()
        assert isinstance(message, messages.Refusal)
        return message

    def expect_silence(self) -> None:
        """Lets the loop go round, by more messages that it must refuse than it reads at once."""
        for _ in range(12):
            self.send(messages.Ping(0))
            assert "not for a learner" in self.refusal().reason


def drain(records: queue.SimpleQueue[Any]) -> list[Any]:
    return [records.get() for _ in range(records.qsize())]
