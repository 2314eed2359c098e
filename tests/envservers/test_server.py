from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import envservers.server
import envservers.supervision.recovery
from envservers.connection import Connection
from envservers.server import EnvServer
from envservers.supervision.shared_state import Supervision
from envservers.tasks import catch
from seed.wire.codec import check_step, encode
from seed.wire.messages import (
    FIRST,
    TERMINATED,
    Actions,
    Frame,
    Goodbye,
    Hello,
    Message,
    Ping,
    Refusal,
    Step,
)
from seed.wire.spaces import SpaceSpec
from tests.envservers.fake_learner import BOARD, PATIENCE_MS, FakeLearner
from tests.envservers.running import Running, Serve, offer_function


def test_a_session_from_hello_to_goodbye(learner: FakeLearner, serve: Serve) -> None:
    running = serve(2, 1)
    hello = learner.receive(Hello)
    assert (hello.group_sizes, hello.name) == ((2, 1), "test")
    learner.welcome(hello)
    first = [learner.receive(Step) for _ in range(2)]
    assert [(step.session, step.group, step.seq) for step in first] == [(11, 0, 0), (11, 1, 0)]
    arrays = [check_step(step, BOARD, size) for step, size in zip(first, (2, 1), strict=True)]
    assert all((row.flags == FIRST).all() for row in arrays)
    run_ids = np.concatenate([row.run_ids for row in arrays])
    assert len(set(run_ids.tolist())) == 3
    learner.act(first[0], [0, 2])
    step = learner.receive(Step)
    assert (step.session, step.group, step.seq) == (11, 0, 1)
    row = check_step(step, BOARD, 2)
    np.testing.assert_array_equal(row.run_ids, run_ids[:2])
    # The paddles have moved to either side, the balls have fallen by a row.
    assert row.observations[0, 9].tolist() == [0, 1, 0, 0, 0]
    assert row.observations[1, 9].tolist() == [0, 0, 0, 1, 0]
    assert (row.observations[:, 1].sum(axis=1) == 1).all()
    assert not row.flags.any()
    running.stop()
    assert learner.receive(Goodbye) == Goodbye(11, "environment server stopped")
    assert running.exit_code == 0


def test_episode_ends_are_told(learner: FakeLearner, serve: Serve) -> None:
    serve(1)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    flags, episodes = [], []
    for _ in range(11):
        step = learner.receive(Step)
        row = check_step(step, BOARD, 1)
        flags.append(int(row.flags[0]))
        episodes.append(row.episodes.tolist())
        learner.act(step, [1])
    assert flags == [FIRST, *[0] * 8, TERMINATED, FIRST]
    (index, length_steps, episode_return), = episodes[9]  # fmt: skip
    assert (index, length_steps, abs(episode_return)) == (0, 9, 1.0)
    assert not any(episodes[:9] + episodes[10:])


def test_groups_do_not_wait_for_each_other(learner: FakeLearner, serve: Serve) -> None:
    serve(1, 1, 1)
    learner.welcome(learner.receive(Hello))
    step = learner.rows(3, 1)[1][0]
    for seq in range(1, 4):
        learner.act(step, [1])
        step = learner.receive(Step)
        assert (step.group, step.seq) == (1, seq)


def test_messages_that_nobody_awaits_change_nothing(learner: FakeLearner, serve: Serve) -> None:
    running = serve(1)
    learner.welcome(learner.receive(Hello))
    step = learner.receive(Step)
    others = [step._replace(session=12), step._replace(group=1)]
    for other in (*others, step._replace(seq=1), step._replace(seq=7)):
        learner.act(other, [0])
    learner.send(Goodbye(12, "to somebody else"))
    learner.send(Ping(11))
    learner.act(step, [2])
    # Sent twice, by a network that repeats itself.
    learner.act(step, [2])
    after = learner.receive(Step)
    assert after.seq == 1
    assert check_step(after, BOARD, 1).observations[0, 9].tolist() == [0, 0, 0, 1, 0]
    learner.expect_silence()
    assert running.server.dropped_messages == 6


@pytest.mark.parametrize(
    "actions",
    [np.zeros(2, np.int64), np.array([3]), np.array([-1])],
    ids=["too long", "too large", "negative"],
)
def test_actions_that_cannot_be_taken_end_the_session(
    learner: FakeLearner, serve: Serve, actions: Any
) -> None:
    """The learner waits for this group's next row: to go on in silence would stall it for ever."""
    running = serve(1)
    learner.welcome(learner.receive(Hello))
    learner.receive(Step)
    learner.send(Actions(11, 0, 0, actions.tobytes()))
    assert "actions: expected" in learner.receive(Goodbye).reason
    learner.welcome(learner.receive(Hello), session=12)
    assert learner.receive(Step).session == 12
    assert any("cannot be taken" in line for line in running.lines)


# It may have been the actions that a group waits for, which would then wait for ever.
def test_a_message_that_cannot_be_read_ends_the_session(
    learner: FakeLearner, serve: Serve
) -> None:
    running = serve(1)
    learner.welcome(learner.receive(Hello))
    learner.receive(Step)
    learner.socket.send_multipart([learner.peer, b"\xc1 no msgpack"])
    assert "not a msgpack map" in learner.receive(Goodbye).reason
    learner.welcome(learner.receive(Hello), session=12)
    learner.act(learner.receive(Step), [1])
    assert learner.receive(Step).seq == 1
    assert sum("cannot be used" in line for line in running.lines) == 1


def test_a_server_of_one_learner_leaves_with_its_connection() -> None:
    """No GOODBYE comes from a learner that was killed."""
    learner = FakeLearner()
    running = Running(learner.address, 1, once=True)
    learner.welcome(learner.receive(Hello))
    learner.receive(Step)
    learner.close()
    assert running.wait() == 0


def test_a_new_learner_at_the_address_starts_new_runs() -> None:
    learner = FakeLearner()
    running = Running(learner.address, 2)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    step, before = learner.rows(1, 2)[0]
    learner.act(step, [1, 1])
    learner.receive(Step)
    learner.close()
    learner = FakeLearner(learner.address)
    assert learner.receive(Hello) == hello
    learner.welcome(hello, session=12)
    step, after = learner.rows(1, 2)[0]
    assert (step.session, step.seq) == (12, 0)
    assert not set(before.run_ids.tolist()) & set(after.run_ids.tolist())
    # The seeds are the same, so the boards are.
    np.testing.assert_array_equal(after.observations, before.observations)
    running.stop()
    learner.close()
    assert any("lost the connection" in line for line in running.lines)


def test_the_same_environment_is_kept(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def make(num_envs: int) -> Any:
        calls.append(num_envs)
        return catch.make(num_envs)

    offer_function("counting", make, monkeypatch)
    serve(2)
    hello = learner.receive(Hello)
    for session in (11, 12):
        learner.welcome(
            hello, session=session, environment={"kind": "function", "id": "counting:make"}
        )
        assert learner.receive(Step).session == session
    assert calls == [2]


def test_another_environment_replaces_the_one_it_has(learner: FakeLearner, serve: Serve) -> None:
    serve(1)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    learner.receive(Step)
    learner.send(Refusal("the session has ended", True))
    chain = {"kind": "function", "id": "envservers.tasks.memory_chain:make"}
    observation, action = SpaceSpec("float32", (3,)), SpaceSpec("int64", (), 2)
    assert learner.receive(Hello) == hello
    learner.welcome(hello, environment=chain, observation=observation, action=action)
    row = check_step(learner.receive(Step), observation, 1)
    assert row.observations.shape == (1, 3)


def test_a_refusal_for_good_ends_the_server(learner: FakeLearner, serve: Serve) -> None:
    running = serve(1)
    learner.receive(Hello)
    learner.send(Refusal("protocol 9 is not spoken here", False))
    assert running.wait() == 2
    assert running.lines[-1] == "refused by the learner: protocol 9 is not spoken here"


def test_a_refusal_for_now_is_followed_by_a_hello(learner: FakeLearner, serve: Serve) -> None:
    running = serve(1, 1)
    hello = learner.receive(Hello)
    learner.send(Refusal("no room", True))
    assert learner.receive(Hello) == hello
    learner.welcome(hello)
    learner.rows(2, 1)
    # The learner has forgotten the session and answers the STEP of either group.
    for _ in range(2):
        learner.send(Refusal("unknown session", True))
    assert learner.receive(Hello) == hello
    learner.welcome(hello, session=12)
    assert {step.session for step, _ in learner.rows(2, 1).values()} == {12}
    assert sum("another attempt" in line for line in running.lines) == 2


def test_one_refusal_for_each_group_asks_for_one_hello(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envservers.server, "doubled_s", lambda *_: 3600.0)
    running = serve(1, 1)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    learner.rows(2, 1)
    for _ in range(2):
        learner.send(Refusal("unknown session", True))
    while running.server.dropped_messages != 1:
        time.sleep(0.01)
    running.server._hello_due_s = 0.0
    running.server._connection.wake()
    assert learner.receive(Hello) == hello


def test_a_hello_in_vain_makes_the_next_one_later(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    doublings = []

    def doubled_s(times: int, shortest_s: float, longest_s: float) -> float:
        doublings.append((times, shortest_s, longest_s))
        return 0.0

    monkeypatch.setattr(envservers.server, "doubled_s", doubled_s)
    serve(1)
    hello = learner.receive(Hello)
    for _ in range(3):
        learner.send(Refusal("no room", True))
        assert learner.receive(Hello) == hello
    learner.welcome(hello)
    learner.act(learner.receive(Step), [1])
    learner.receive(Step)
    # A learner that has worked with a session is a learner that works.
    learner.send(Refusal("unknown session", True))
    assert learner.receive(Hello) == hello
    assert doublings == [(times, 0.2, 5.0) for times in (0, 1, 2, 0)]


def test_a_fleet_outlives_its_learner(learner: FakeLearner, serve: Serve) -> None:
    running = serve(1)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    learner.receive(Step)
    learner.send(Goodbye(11, "training is complete"))
    assert learner.receive(Hello) == hello
    assert running.exit_code is None


def test_once_ends_with_the_learner(learner: FakeLearner, serve: Serve) -> None:
    running = serve(1, once=True)
    learner.welcome(learner.receive(Hello))
    learner.receive(Step)
    learner.send(Goodbye(11, "training is complete"))
    assert running.wait() == 0
    assert running.lines[-1] == "the learner says goodbye: training is complete"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"environment": {"kind": "atari", "id": "pongg"}}, "did you mean pong"),
     ({"environment": {"kind": "function", "id": "no_such:thing"}}, "No module named 'no_such'"),
     ({"observation": SpaceSpec("uint8", (84, 84))}, "the environment's observation is"),
     ({"action": SpaceSpec("int64", (), 4)}, "the environment's action is")],
)  # fmt: skip
def test_an_environment_that_cannot_be_run_ends_the_server(
    learner: FakeLearner, serve: Serve, changes: dict[str, Any], reason: str
) -> None:
    running = serve(1)
    learner.welcome(learner.receive(Hello), **changes)
    goodbye = learner.receive(Goodbye)
    assert goodbye.session == 11
    assert reason in goodbye.reason
    assert running.wait() == 2
    assert reason in running.lines[-1]


def test_a_welcome_for_another_number_is_ignored(learner: FakeLearner, serve: Serve) -> None:
    running = serve(1)
    hello = learner.receive(Hello)
    learner.welcome(hello, env_ids=np.arange(2), seeds=np.arange(2))
    learner.welcome(hello, seeds=np.array([-1]))
    learner.welcome(hello)
    assert learner.receive(Step).session == 11
    assert sum("expected 1 environments" in line for line in running.lines) == 2


def test_a_learner_that_never_stops_talking_does_not_keep_the_server(
    learner: FakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    talking = threading.Event()

    def messages(connection: Connection) -> Iterator[list[Frame]]:
        while True:
            talking.set()
            yield [*encode(Ping(11))]

    monkeypatch.setattr(Connection, "messages", messages)
    supervision = Supervision()
    running = Running(learner.address, 1, 1, once=True, supervision=supervision)
    try:
        assert talking.wait(PATIENCE_MS / 1000)
        supervision.shared.starter_ended = True
        assert running.wait() == 0
    finally:
        running.stop()


# A learner is trusted with what is run here, but its text may come from elsewhere.
@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Goodbye(11, "\x1b[2J\n"), r"the learner says goodbye: \x1b[2J\n"),
        (Refusal("\u202eno\nforged", False, 0), r"refused by the learner: \u202eno\nforged"),
    ],
)
def test_what_the_learner_says_is_escaped(
    monkeypatch: pytest.MonkeyPatch, message: Message, line: str
) -> None:
    lines: list[str] = []
    server = EnvServer("ipc:///nonexistent/nobody", [1], say=lines.append)
    monkeypatch.setattr(server._connection, "messages", lambda: iter([[*encode(message)]]))
    server._connected = True
    server._receive()
    assert lines == [line]
    server._connection.close()


# It would say HELLO to nobody, and a server of one learner would not say why it leaves.
def test_all_messages_come_before_the_end_of_their_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    messages = deque[Message]([Ping(11), Ping(11), Goodbye(11, "that was all")])
    changes = deque([False])
    server = EnvServer("ipc:///nonexistent/nobody", [1], say=lines.append)
    monkeypatch.setattr(
        server._connection, "messages",
        lambda: ([*encode(messages.popleft())] for _ in range(len(messages))),
    )  # fmt: skip
    monkeypatch.setattr(
        server._connection, "changes", lambda: (changes.popleft() for _ in range(len(changes)))
    )
    server._connected = True
    while changes:
        server._receive()
    assert [line.split(":")[0] for line in lines] == [
        "the learner says goodbye", "lost the connection to ipc"
    ]  # fmt: skip
    server._connection.close()


def test_silence_is_told_once_and_hello_repeated(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envservers.server, "_ANSWER_TIMEOUT_S", 0.05)
    running = serve(1)
    hellos = {learner.receive(Hello) for _ in range(4)}
    assert len(hellos) == 1
    assert sum("no answer from the learner" in line for line in running.lines) == 1


def test_signals_stop_a_server_only_where_its_supervisor_was_asked(learner: FakeLearner) -> None:
    supervision = Supervision()
    running = Running(learner.address, 1, supervision=supervision)
    try:
        learner.welcome(learner.receive(Hello))
        step = learner.receive(Step)
        # As an environment may have it, by a signal to its own process.
        running.server.wake()
        learner.act(step, [1])
        learner.receive(Step)
        supervision.shared.asked = True
        running.server.wake()
        assert learner.receive(Goodbye).reason == "environment server stopped"
        assert running.wait() == 0
    finally:
        running.stop()


def test_a_server_without_a_learner_says_so_once_and_can_be_stopped() -> None:
    learner = FakeLearner()
    learner.close()
    running = Running(learner.address, 1)
    while not running.lines:
        time.sleep(0.01)
    running.stop()
    assert running.lines == [f"waiting for a learner at {learner.address}"]
    assert running.exit_code == 0
