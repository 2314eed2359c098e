"""A learner without learning, for tests of the other side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import zmq

from seed import wire

M = TypeVar("M", bound=wire.Message)

PATIENCE_MS = 10_000
CATCH = {"kind": "function", "id": "envservers.tasks.catch:make"}
BOARD, MOVE = wire.SpaceSpec("float32", (10, 5)), wire.SpaceSpec("int64", (), 3)


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

    def receive_any(self) -> wire.Message:
        """The next message."""
        assert self.socket.poll(PATIENCE_MS), "nothing came"
        self.peer, *frames = self.socket.recv_multipart()
        return wire.decode([*frames])

    def send(self, message: wire.Message) -> None:
        self.socket.send_multipart([self.peer, *wire.encode(message)])

    def welcome(self, hello: wire.Hello, session: int = 11, **changes: Any) -> None:
        """Answers HELLO with boards of Catch, unless `changes` say otherwise."""
        numbers = np.arange(hello.num_envs)
        message = wire.Welcome(session, CATCH, BOARD, MOVE, numbers, 100 + numbers)
        self.send(replace(message, **changes))

    def rows(self, num_groups: int, size: int) -> dict[int, tuple[wire.Step, wire.StepArrays]]:
        """The next STEP of every group."""
        steps = [self.receive(wire.Step) for _ in range(num_groups)]
        return {step.group: (step, wire.check_step(step, BOARD, size)) for step in steps}

    def act(self, step: wire.Step, actions: list[int]) -> None:
        frame = np.array(actions, np.int64).tobytes()
        self.send(wire.Actions(step.session, step.group, step.seq, frame))

    def expect_silence(self) -> None:
        assert not self.socket.poll(100)

    def close(self) -> None:
        self.socket.close()
        self.context.term()
