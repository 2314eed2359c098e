"""A learner without learning, for tests of the other side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import zmq

from seed.wire import codec, messages
from seed.wire.spaces import SpaceSpec

M = TypeVar("M", bound=messages.Message)

PATIENCE_MS = 300_000
CATCH = {"kind": "function", "id": "envservers.tasks.catch:make"}
BOARD, MOVE = SpaceSpec("float32", (10, 5)), SpaceSpec("int64", (), 3)


class FakeLearner:
    """A ROUTER that says what a test tells it to."""

    def __init__(self, address: str = "tcp://127.0.0.1:*") -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.bind(address)
        self.address: str = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.peer = b""

    def receive(self, kind: type[M]) -> M:
        """The next message, which must be of this kind."""
        message = self.receive_any()
        assert isinstance(message, kind), message
        return message

    def receive_any(self) -> messages.Message:
        """The next message."""
        assert self.socket.poll(PATIENCE_MS), "nothing came"
        self.peer, *frames = self.socket.recv_multipart()
        return codec.decode([*frames])

    def send(self, message: messages.Message) -> None:
        self.socket.send_multipart([self.peer, *codec.encode(message)])

    def welcome(self, hello: messages.Hello, session: int = 11, **changes: Any) -> None:
        """Answers HELLO with boards of Catch, unless `changes` say otherwise."""
        numbers = np.arange(hello.num_envs)
        message = messages.Welcome(session, CATCH, BOARD, MOVE, numbers, 100 + numbers)
        self.send(replace(message, **changes))

    def rows(
        self, num_groups: int, size: int
    ) -> dict[int, tuple[messages.Step, messages.StepArrays]]:
        """The next STEP of every group."""
        steps = [self.receive(messages.Step) for _ in range(num_groups)]
        return {step.group: (step, codec.check_step(step, BOARD, size)) for step in steps}

    def act(self, step: messages.Step, actions: list[int]) -> None:
        frame = np.array(actions, np.int64).tobytes()
        self.send(messages.Actions(step.session, step.group, step.seq, frame))

    def expect_silence(self) -> None:
        assert not self.socket.poll(100)

    def close(self) -> None:
        self.socket.close()
        self.context.term()
