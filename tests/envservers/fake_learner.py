"""Learners without learning, for tests of the other side: in the same thread, or at a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import zmq

from seed.wire import codec, messages
from seed.wire.messages import Message
from seed.wire.spaces import SpaceSpec

M = TypeVar("M", bound=Message)

PATIENCE_MS = 300_000
CATCH = {"kind": "function", "id": "envservers.tasks.catch:make"}
BOARD, MOVE = SpaceSpec("float32", (10, 5)), SpaceSpec("int64", (), 3)
# No server has so much to do before something is sent.
_MOST_TURNS = 1000


class Learner:
    """Says what a test tells it to."""

    def receive_any(self) -> Message:
        """The next message."""
        raise NotImplementedError

    def send_frames(self, frames: list[messages.Frame]) -> None:
        raise NotImplementedError

    def receive(self, kind: type[M]) -> M:
        """The next message, which must be of this kind."""
        message = self.receive_any()
        assert isinstance(message, kind), message
        return message

    def send(self, message: Message) -> None:
        self.send_frames([*codec.encode(message)])

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


class FakeConnection:
    """What a server takes for its `Connection`: no socket, and a clock that moves as it waits."""

    def __init__(self) -> None:
        self.address, self.warning, self.now_s = "tcp://learner:1", "", 1000.0
        self.arrived, self.sent = deque[list[messages.Frame]](), deque[Message]()
        # The server hears of the connection when it waits first.
        self.news, self.is_up = deque([True]), True
        self.turns, self.is_closed, self._has_sent = 0, False, False

    def wait(self, timeout_s: float) -> None:
        self.turns += 1
        assert self.turns < _MOST_TURNS, "nothing came"
        # First its learner may answer.
        if not (self.arrived or self.news or self._has_sent):
            self.now_s += timeout_s
        self._has_sent = False

    def wake(self) -> None:
        """It never sleeps."""

    def messages(self) -> Iterator[list[messages.Frame]]:
        while self.arrived:
            yield self.arrived.popleft()

    def changes(self) -> Iterator[bool]:
        while self.news:
            yield self.news.popleft()

    def send(self, message: Message) -> bool:
        self._has_sent = True
        if self.is_up:
            self.sent.append(codec.decode([bytes(frame) for frame in codec.encode(message)]))
        return self.is_up

    def close(self) -> None:
        self.is_closed = True


class FakeLearner(Learner):
    """One at the other end of a FakeConnection; the server takes turns while it waits."""

    def __init__(self) -> None:
        self.connection = FakeConnection()
        self.turn: Callable[[], None] = lambda: None

    def receive_any(self) -> Message:
        self.connection.turns = 0
        while not self.connection.sent:
            self.turn()
        return self.connection.sent.popleft()

    def send_frames(self, frames: list[messages.Frame]) -> None:
        self.connection.arrived.append(frames)

    def expect_silence(self) -> None:
        for _ in range(20):
            self.turn()
        assert not self.connection.sent

    def change(self, is_up: bool) -> None:
        """Its connection is lost, or made again."""
        self.connection.is_up = is_up
        self.connection.news.append(is_up)


class SocketLearner(Learner):
    """A ROUTER."""

    def __init__(self, address: str = "tcp://127.0.0.1:*") -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.bind(address)
        self.address: str = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.peer = b""

    def receive_any(self) -> Message:
        assert self.socket.poll(PATIENCE_MS), "nothing came"
        self.peer, *frames = self.socket.recv_multipart()
        return codec.decode([*frames])

    def send_frames(self, frames: list[messages.Frame]) -> None:
        self.socket.send_multipart([self.peer, *frames])

    def close(self) -> None:
        self.socket.close()
        self.context.term()
