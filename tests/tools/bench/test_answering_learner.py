from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from seed.wire.codec import check_actions, decode, encode
from seed.wire.messages import Actions, Goodbye, Hello, Message, Step, Welcome
from seed.wire.spaces import SpaceSpec
from tools.bench.answering_learner import NUM_ACTIONS, AnsweringLearner
from tools.bench.processes import ProcessFailed

PATIENCE_MS = 300_000
LONG_S = 1e6


class Server:
    """A DEALER that says what a test tells it to."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(address)

    def send(self, message: Message) -> None:
        self.socket.send_multipart(encode(message))

    def receive(self) -> Message:
        assert self.socket.poll(PATIENCE_MS)
        return decode([*self.socket.recv_multipart()])

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


@pytest.fixture
def learner() -> Iterator[AnsweringLearner]:
    learner = AnsweringLearner()
    yield learner
    learner.close()


@pytest.fixture
def server(learner: AnsweringLearner) -> Iterator[Server]:
    server = Server(learner.address)
    yield server
    server.close()


def step(group: int, seq: int) -> Step:
    return Step(1, group, seq, [b""] * 5)


def test_steps_are_answered_when_they_are_due(learner: AnsweringLearner, server: Server) -> None:
    for message in (Hello(7, (3, 3), "test"), step(0, 0), step(1, 0)):
        server.send(message)
    learner.welcome(lambda: None)
    welcome = server.receive()
    assert isinstance(welcome, Welcome)
    assert len(welcome.env_ids) == len(welcome.seeds) == 6
    # First rows are answered at once, ...
    for group in range(2):
        assert play_until_answered(learner, server, LONG_S) == 0
        actions = server.receive()
        assert isinstance(actions, Actions)
        assert (actions.session, actions.group, actions.seq) == (welcome.session, group, 0)
        check_actions(actions, SpaceSpec("int64", (), NUM_ACTIONS), 3)
    # ... later ones after the delay that was asked for as they came.
    server.send(step(0, 1))
    assert until_rows_come(learner, LONG_S) == 3
    server.send(step(1, 1))
    assert until_rows_come(learner, 0.0) == 3
    play_until_answered(learner, server, 0.0)
    answer = server.receive()
    assert isinstance(answer, Actions)
    assert (answer.group, answer.seq) == (1, 1)
    assert not server.socket.poll(50)


def play_until_answered(learner: AnsweringLearner, server: Server, delay_s: float) -> int:
    steps = 0
    while not server.socket.poll(0):
        steps += learner.play(0.005, delay_s)
    return steps


def until_rows_come(learner: AnsweringLearner, delay_s: float) -> int:
    while not (steps := learner.play(0.005, delay_s)):
        pass
    return steps


@pytest.mark.parametrize(
    "messages",
    [
        [Goodbye(1, "no")],
        [Hello(7, (3,), "test"), Goodbye(1, "an environment failed")],
    ],
)
def test_a_server_that_does_not_play_ends_the_measurement(
    learner: AnsweringLearner, server: Server, messages: list[Message]
) -> None:
    for message in messages:
        server.send(message)
    with pytest.raises(ProcessFailed, match="the environment server"):
        learner.welcome(lambda: None)


def test_a_silent_server_is_checked(learner: AnsweringLearner) -> None:
    def check() -> None:
        raise ProcessFailed("it has ended")

    with pytest.raises(ProcessFailed, match="it has ended"):
        learner.welcome(check)
