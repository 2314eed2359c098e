"""Learners without learning for environment servers: in the same thread, or at a socket."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np
import pytest
import zmq

from envservers.connection import Connection
from envservers.server import EnvServer
from seed.wire import codec, messages
from seed.wire.messages import Message
from seed.wire.spaces import SpaceSpec

M = TypeVar("M", bound=Message)

PATIENCE_MS = 300_000
CATCH = {"kind": "function", "id": "envservers.tasks.catch:make"}
BOARD, MOVE = SpaceSpec("float32", (10, 5)), SpaceSpec("int64", (), 3)
# No server has so much to do before something is sent.
_MOST_TURNS = 1000


def offer_function(
    name: str, make: Any, monkeypatch: pytest.MonkeyPatch, function: str = "make"
) -> None:
    """Makes `make` known as the function environment "name:function"."""
    module = types.ModuleType(name)
    vars(module)[function] = make
    monkeypatch.setitem(sys.modules, name, module)


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

    def send(self, *sent: Message) -> None:
        for message in sent:
            self.send_frames([*codec.encode(message)])

    def welcome(self, session: int = 11, **changes: Any) -> messages.Hello:
        """Answers the next message, a HELLO, with boards of Catch, unless `changes` differ."""
        hello = self.receive(messages.Hello)
        self.send_welcome(hello, session, **changes)
        return hello

    def send_welcome(self, hello: messages.Hello, session: int = 11, **changes: Any) -> None:
        numbers = np.arange(hello.num_envs)
        message = messages.Welcome(session, CATCH, BOARD, MOVE, numbers, 100 + numbers)
        self.send(replace(message, **changes))

    def act(self, step: messages.Step, *actions: int) -> None:
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


class Served(Learner):
    """The learner of a server in this thread, which takes its turns while the learner waits."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        self.lines: list[str] = []
        self.connection = FakeConnection()
        self.server = EnvServer(
            cast(Connection, self.connection), sizes, name="test", say=self.lines.append,
            clock=lambda: self.connection.now_s, **options,
        )  # fmt: skip

    def receive_any(self) -> Message:
        self.connection.turns = 0
        while not self.connection.sent:
            self.server.turn()
        return self.connection.sent.popleft()

    def send_frames(self, frames: list[messages.Frame]) -> None:
        self.connection.arrived.append(frames)

    def expect_silence(self) -> None:
        for _ in range(20):
            self.server.turn()
        assert not self.connection.sent

    def change(self, *is_up: bool) -> None:
        """Its connection is lost, or made again."""
        self.connection.is_up = is_up[-1]
        self.connection.news.extend(is_up)

    def wait(self) -> int:
        """Until the server has ended; with which exit code."""
        self.connection.turns = 0
        return self.server.run()


class SocketLearner(Learner):
    """A ROUTER."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.bind("tcp://127.0.0.1:*")
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
