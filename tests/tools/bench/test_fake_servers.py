"""Fake environment servers speak the protocol, in a closed loop and in an open one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from seed.wire.codec import check_step, decode, encode
from seed.wire.messages import (
    FIRST,
    TERMINATED,
    Actions,
    Goodbye,
    Hello,
    Message,
    Refusal,
    Step,
    StepArrays,
    Welcome,
)
from seed.wire.spaces import SpaceSpec
from tools.bench.echo import Echo
from tools.bench.fake_servers import (
    EPISODE_STEPS,
    Answer,
    FakeServers,
    PreparedRows,
    Refused,
    report_window,
)

IMAGE, ACTION = SpaceSpec("uint8", (3, 2)), SpaceSpec("int64", (), 18)
SIZE = 4
PATIENCE_MS = 300_000


class Learner:
    """A ROUTER that reads messages and answers when it is told to."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind("tcp://127.0.0.1:*")
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)

    def receive(self, fleet: FakeServers) -> tuple[bytes, Message]:
        """The next message, while the fleet works."""
        for _ in range(PATIENCE_MS // 10):
            if self.socket.poll(10):
                identity, *frames = self.socket.recv_multipart()
                return identity, decode([*frames])
            fleet.work()
        raise AssertionError("nothing came")

    def welcome(self, fleet: FakeServers) -> tuple[bytes, Hello]:
        identity, hello = self.receive(fleet)
        assert isinstance(hello, Hello)
        numbers = np.arange(hello.num_envs)
        self.send(identity, Welcome(7, {}, IMAGE, ACTION, numbers, numbers))
        return identity, hello

    def send(self, identity: bytes, message: Message) -> None:
        self.socket.send_multipart([identity, *encode(message)])

    def act(self, identity: bytes, step: Step) -> None:
        self.send(identity, Actions(step.session, step.group, step.seq, bytes(8 * SIZE)))


@pytest.fixture
def learner() -> Iterator[Learner]:
    learner = Learner()
    yield learner
    learner.socket.close()
    learner.context.term()


def _step(message: Message) -> Step:
    assert isinstance(message, Step)
    return message


def test_prepared_rows_are_rows_of_the_protocol() -> None:
    rows = PreparedRows(IMAGE, SIZE)

    def read(seq: int, age: int) -> StepArrays:
        frames = [frame.bytes for frame in rows.frames(seq, age)]
        return check_step(Step(0, 0, seq, frames), IMAGE, SIZE)

    start, middle, end = read(0, 500), read(1, 501), read(500, EPISODE_STEPS)
    assert start.flags.tolist() == [FIRST] * SIZE
    assert middle.flags.tolist() == [0] * SIZE
    assert end.flags.tolist() == [TERMINATED] * SIZE
    assert read(501, 0).flags.tolist() == [FIRST] * SIZE
    assert (start.observations != middle.observations).any()
    assert len(start.episodes) == len(middle.episodes) == 0
    assert end.episodes["index"].tolist() == list(range(SIZE))
    assert end.episodes["length_steps"].tolist() == [EPISODE_STEPS] * SIZE
    np.testing.assert_array_equal(start.run_ids, end.run_ids)


def test_every_answer_brings_the_groups_next_row(learner: Learner) -> None:
    fleet = FakeServers(learner.endpoint, servers=1, groups=2, group_size=SIZE, rate=0.0)
    identity, hello = learner.welcome(fleet)
    assert hello.group_sizes == (SIZE, SIZE)
    assert {_step(learner.receive(fleet)[1]).group for _ in range(2)} == {0, 1}
    assert fleet.registered == 1
    for seq in range(3):
        learner.act(identity, Step(7, 1, seq, ()))
        step = _step(learner.receive(fleet)[1])
        assert (step.session, step.group, step.seq) == (7, 1, seq + 1)
        check_step(step, IMAGE, SIZE)
    assert [answer.rows for answer in fleet.answers] == [SIZE] * 3
    assert all(answer.sent_s < answer.answered_s for answer in fleet.answers)
    learner.act(identity, Step(7, 0, 0, ()))
    learner.act(identity, Step(7, 1, 3, ()))
    fleet.leave()
    assert isinstance(learner.receive(fleet)[1], Goodbye)


def test_an_echo_answers_and_counts_the_rows_of_all_connections() -> None:
    echo = Echo(side=8)
    fleet = FakeServers(echo.endpoint, servers=3, groups=2, group_size=SIZE, rate=0.0)
    while len(fleet.answers) < 20:
        echo.serve(0.001)
        fleet.work()
    leaving = threading.Thread(target=fleet.leave)
    leaving.start()
    while leaving.is_alive():
        echo.serve(0.01)
    echo.close()
    assert fleet.registered == 3
    assert echo.rows >= SIZE * 20
    assert echo.rows % SIZE == 0


def test_in_an_open_loop_messages_leave_when_they_are_due(learner: Learner) -> None:
    rate, messages = 200.0, 6
    fleet = FakeServers(learner.endpoint, servers=1, groups=1, group_size=SIZE, rate=rate)
    identity, _ = learner.welcome(fleet)
    for _ in range(messages):
        learner.act(identity, _step(learner.receive(fleet)[1]))
    while len(fleet.answers) < messages:
        fleet.work()
    due_s = np.array([answer.due_s for answer in fleet.answers])
    np.testing.assert_allclose(np.diff(due_s), 1 / rate, rtol=1e-6)
    assert all(answer.sent_s >= answer.due_s for answer in fleet.answers)
    fleet.leave()


def test_a_refusal_ends_the_fleet(learner: Learner) -> None:
    fleet = FakeServers(learner.endpoint, servers=1, groups=1, group_size=SIZE, rate=0.0)
    identity, _ = learner.receive(fleet)
    learner.send(identity, Refusal("too many", False))
    with pytest.raises(Refused, match="too many"):
        learner.receive(fleet)
    fleet.leave()


def test_the_report_holds_what_was_due_in_the_window() -> None:
    times_s = [(9.9, 9.9, 10.5), (10.0, 10.1, 10.3), (11.9, 11.9, 12.4), (12.0, 12.0, 12.1)]
    report = report_window([Answer(*each, rows=32) for each in times_s], 10.0, seconds=2.0)
    assert report["rows"] == 64
    assert report["latencies_ms"] == pytest.approx([200.0, 500.0])
    assert report["due_latencies_ms"] == pytest.approx([300.0, 500.0])
