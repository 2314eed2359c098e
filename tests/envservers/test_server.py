"""An environment server in this thread, and a learner that says what a test tells it to."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from envservers.connection import Denied
from envservers.environments.group_set import GroupSet
from envservers.server import _say_on_stderr, describe
from envservers.supervision.shared_state import CrashReport, StepTimer, Supervision
from envservers.tasks import catch
from seed.wire.codec import check_step, encode
from seed.wire.messages import (
    FIRST,
    TERMINATED,
    Actions,
    Fault,
    Frame,
    Goodbye,
    Hello,
    Message,
    Ping,
    Refusal,
    Step,
    StepArrays,
)
from seed.wire.spaces import SpaceSpec
from tests.envservers.fake_learner import BOARD, FakeLearner, SocketLearner
from tests.envservers.faulty_envs import Factory, Script
from tests.envservers.running import Running, Serve, offer_function

FAILING = {"kind": "function", "id": "failing:make"}
POINT, PUSH = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)


def test_a_session_from_hello_to_goodbye(learner: FakeLearner, serve: Serve) -> None:
    served = serve(2, 1)
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
    # The other group has waited for its own actions.
    learner.act(first[1], [1])
    assert learner.receive(Step).group == 1
    served.server.stop()
    assert served.wait() == 0
    assert learner.receive(Goodbye) == Goodbye(11, "environment server stopped")
    assert served.connection.is_closed


def test_episode_ends_are_told(learner: FakeLearner, serve: Serve) -> None:
    serve(1)
    learner.welcome(learner.receive(Hello))
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


def test_messages_that_nobody_awaits_change_nothing(learner: FakeLearner, serve: Serve) -> None:
    served = serve(1)
    learner.welcome(learner.receive(Hello))
    step = learner.receive(Step)
    others = [step._replace(session=12), step._replace(group=1)]
    for other in (*others, step._replace(seq=1), step._replace(seq=7)):
        learner.act(other, [0])
    learner.send(Goodbye(12, "to somebody else"))
    learner.send(Refusal("of a session before", True, 12))
    learner.send(Ping(11))
    learner.act(step, [2])
    # Sent twice, by a network that repeats itself.
    learner.act(step, [2])
    after = learner.receive(Step)
    assert after.seq == 1
    assert check_step(after, BOARD, 1).observations[0, 9].tolist() == [0, 0, 0, 1, 0]
    learner.expect_silence()
    assert served.server.dropped_messages == 7


@pytest.mark.parametrize(
    ("frames", "reason", "line"),
    [([*encode(Actions(11, 0, 0, actions.tobytes()))], "actions: expected", "cannot be taken")
     for actions in (np.zeros(2, np.int64), np.array([3]), np.array([-1]))]
    + [([b"\xc1 no msgpack"], "not a msgpack map", "cannot be used")],
)  # fmt: skip
def test_a_message_that_cannot_be_used_ends_the_session(
    learner: FakeLearner, serve: Serve, frames: list[Frame], reason: str, line: str
) -> None:
    """The learner waits for this group's next row: to go on in silence would stall it for ever."""
    served = serve(1)
    learner.welcome(learner.receive(Hello))
    learner.receive(Step)
    learner.send_frames(frames)
    assert reason in learner.receive(Goodbye).reason
    learner.welcome(learner.receive(Hello), session=12)
    assert learner.receive(Step).session == 12
    assert sum(line in said for said in served.lines) == 1


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("word", [Goodbye(11, "training is complete"), None])
def test_the_end_of_the_learner_ends_a_server_of_one_learner(
    learner: FakeLearner, serve: Serve, word: Message | None, once: bool
) -> None:
    served = serve(1, once=once)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    learner.receive(Step)
    if word is not None:
        learner.send(word)
    else:
        # None comes from a learner that was killed.
        learner.change(False)
    if once:
        assert served.wait() == 0
    else:
        learner.turn()
        learner.change(True)
        assert learner.receive(Hello) == hello
    assert served.lines[1] == (
        "the learner says goodbye: training is complete" if word is not None
        else "lost the connection to tcp://learner:1"
    )  # fmt: skip


def test_a_new_learner_at_the_address_starts_new_runs() -> None:
    """At a real socket, and in a thread."""
    learner = SocketLearner()
    running = Running(learner.address, 2)
    hello = learner.receive(Hello)
    learner.welcome(hello)
    step, before = learner.rows(1, 2)[0]
    learner.act(step, [1, 1])
    learner.receive(Step)
    learner.close()
    learner = SocketLearner(learner.address)
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


def test_the_same_environment_is_kept_and_another_replaces_it(
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
    chain = {"kind": "function", "id": "envservers.tasks.memory_chain:make"}
    observation, action = SpaceSpec("float32", (3,)), SpaceSpec("int64", (), 2)
    learner.welcome(hello, environment=chain, observation=observation, action=action)
    row = check_step(learner.receive(Step), observation, 2)
    assert row.observations.shape == (2, 3)


def test_a_refusal_for_now_is_followed_by_one_hello(learner: FakeLearner, serve: Serve) -> None:
    served = serve(1, 1, supervision=Supervision(jitter=lambda: 1.0))
    hello = learner.receive(Hello)
    learner.send(Refusal("no room", True))
    assert learner.receive(Hello) == hello
    learner.welcome(hello)
    learner.act(learner.rows(2, 1)[0][0], [1])
    learner.receive(Step)
    began_s = learner.connection.now_s
    # The learner has forgotten the session and answers the STEP of either group.
    for _ in range(2):
        learner.send(Refusal("unknown session", True))
    assert learner.receive(Hello) == hello
    # It has worked with the session: the wait is the shortest again.
    assert learner.connection.now_s - began_s == pytest.approx(0.2, abs=0.05)
    assert served.server.dropped_messages == 1
    learner.welcome(hello, session=12)
    assert {step.session for step, _ in learner.rows(2, 1).values()} == {12}
    assert sum("another attempt" in line for line in served.lines) == 2


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
    served = serve(1)
    learner.welcome(learner.receive(Hello), **changes)
    goodbye = learner.receive(Goodbye)
    assert goodbye.session == 11
    assert reason in goodbye.reason
    assert served.wait() == 2
    assert reason in served.lines[-1]


def test_a_welcome_for_another_number_is_ignored(learner: FakeLearner, serve: Serve) -> None:
    served = serve(1)
    hello = learner.receive(Hello)
    learner.welcome(hello, env_ids=np.arange(2), seeds=np.arange(2))
    learner.welcome(hello, seeds=np.array([-1]))
    learner.welcome(hello)
    assert learner.receive(Step).session == 11
    assert sum("expected 1 environments" in line for line in served.lines) == 2


def test_a_learner_that_never_stops_talking_does_not_keep_the_server(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = Supervision()

    def messages() -> Iterator[list[Frame]]:
        for _ in range(1000):
            yield [*encode(Ping(11))]
            supervision.shared.starter_ended = True
        raise AssertionError("it listens for ever")

    monkeypatch.setattr(learner.connection, "messages", messages)
    assert serve(1, 1, once=True, supervision=supervision).wait() == 0


# A learner is trusted with what is run here, but its text may come from elsewhere.
@pytest.mark.parametrize(
    ("message", "line"),
    [(Goodbye(11, "\x1b[2J\n"), r"the learner says goodbye: \x1b[2J\n"),
     (Refusal("\u202eno\nforged", False), r"refused by the learner: \u202eno\nforged")],
)  # fmt: skip
def test_what_the_learner_says_is_escaped(
    learner: FakeLearner, serve: Serve, message: Message, line: str
) -> None:
    served = serve(1, once=True)
    learner.receive(Hello)
    learner.send(message)
    assert served.wait() == (2 if isinstance(message, Refusal) else 0)
    assert served.lines == [line]


# It would say HELLO to nobody, and a server of one learner would not say why it leaves.
def test_all_messages_come_before_the_end_of_their_connection(
    learner: FakeLearner, serve: Serve
) -> None:
    served = serve(1)
    learner.receive(Hello)
    for message in (Ping(11), Ping(11), Goodbye(11, "that was all")):
        learner.send(message)
    learner.change(False)
    while learner.connection.news:
        learner.turn()
    assert [line.split(":")[0] for line in served.lines] == [
        "the learner says goodbye", "lost the connection to tcp"
    ]  # fmt: skip


def test_silence_is_told_and_hello_repeated(learner: FakeLearner, serve: Serve) -> None:
    served = serve(1)
    hellos = {learner.receive(Hello) for _ in range(4)}
    assert len(hellos) == 1
    told = "no answer from the learner at tcp://learner:1 yet; still waiting"
    assert served.lines == [told]


def test_a_server_without_a_learner_says_so_and_may_give_up(
    learner: FakeLearner, serve: Serve
) -> None:
    connection = learner.connection
    connection.news.clear()
    connection.warning = "; it may have keys"
    served = serve(1, wait_s=50.0)
    assert served.wait() == 1
    waiting = "waiting for a learner at tcp://learner:1; it may have keys"
    gave_up = "no session with a learner at tcp://learner:1 within 50 s"
    assert served.lines == [waiting, waiting, gave_up]
    # Whoever waits may be shown the reason that the learner gave.
    learner.change(True)
    served = serve(1, wait_s=50.0)
    learner.receive(Hello)
    learner.send(Refusal("no room", True))
    assert served.wait() == 1
    assert served.lines[-1] == f"{gave_up}: no room"


def test_a_warning_is_told_at_once_and_a_late_welcome_dropped(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(1)
    hello = learner.receive(Hello)
    learner.change(False)
    while len(served.lines) < 2:
        learner.turn()
    # Of the connection that was lost.
    learner.welcome(hello)
    learner.turn()
    assert served.server.dropped_messages == 1
    told = len(served.lines)

    def changes() -> Iterator[bool]:
        learner.connection.warning = "; it may have keys"
        yield learner.connection.news.popleft()

    monkeypatch.setattr(learner.connection, "changes", changes)
    for _ in range(2):
        learner.change(False)
        learner.turn()
    assert served.lines[told:] == ["waiting for a learner at tcp://learner:1; it may have keys"]


def test_a_server_that_is_denied_leaves(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes() -> Iterator[bool]:
        yield True
        raise Denied("this key is not allowed")

    monkeypatch.setattr(learner.connection, "changes", changes)
    served = serve(1)
    assert served.wait() == 76
    assert served.lines == ["this key is not allowed"]


def test_signals_stop_a_server_only_where_its_supervisor_was_asked(
    learner: FakeLearner, serve: Serve
) -> None:
    class Recording(StepTimer):
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    timer = Recording()
    supervision = Supervision(step_timer=timer)
    served = serve(1, supervision=supervision)
    learner.welcome(learner.receive(Hello))
    step = learner.receive(Step)
    # As an environment may have it, by a signal to its own process.
    served.server.wake()
    learner.act(step, [1])
    learner.receive(Step)
    assert (timer.stopped, supervision.shared.ending) == (False, False)
    supervision.shared.asked = True
    served.server.wake()
    # What comes now is not looked at any more.
    learner.send(Refusal("the learner is full", False))
    assert served.wait() == 0
    assert learner.receive(Goodbye).reason == "environment server stopped"
    # From here on, the supervisor has a deadline for it.
    assert (timer.stopped, supervision.shared.ending) == (True, True)
    assert supervision.shared.exit_code == 0


def test_a_server_without_its_supervisor_leaves(serve: Serve) -> None:
    assert serve(1, supervision=Supervision(parent=-1)).wait() == 0


def test_a_server_of_one_learner_leaves_with_its_supervisors_starter(
    learner: FakeLearner, serve: Serve
) -> None:
    supervision = Supervision()
    served = serve(1, once=True, supervision=supervision)
    learner.welcome(learner.receive(Hello))
    learner.receive(Step)
    supervision.shared.starter_ended = True
    assert served.wait() == 0
    assert "started this one has ended" in learner.receive(Goodbye).reason


def offer_single(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Script, str], Any]) -> Factory:
    """Offers FAILING: scripted environments, made one by one."""
    factory = Factory(fails)
    offer_function("failing", lambda: factory(), monkeypatch)
    return factory


def fall(env: Script, what: str) -> None:
    if what == "step":
        raise RuntimeError("the simulator fell over")


class Steps:
    """What a learner gets of groups of two scripted environments."""

    def __init__(self, learner: FakeLearner) -> None:
        self.learner, self.faults = learner, deque[Fault]()

    def welcome(self, hello: Hello, session: int = 11, **changes: Any) -> None:
        changes = {"environment": FAILING, "observation": POINT, "action": PUSH, **changes}
        self.learner.welcome(hello, session, **changes)

    def next(self) -> tuple[Step, StepArrays]:
        """The next STEP; faults before it are kept."""
        while isinstance(message := self.learner.receive_any(), Fault):
            self.faults.append(message)
        assert isinstance(message, Step), message
        return message, check_step(message, POINT, 2)


def test_an_environment_that_fails_begins_a_new_history(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, lambda env, what: fall(env, what) if env.number == 0 else None)
    serve(2)
    steps = Steps(learner)
    steps.welcome(learner.receive(Hello))
    message, first = steps.next()
    learner.act(message, [0, 0])
    message, after = steps.next()
    (fault,) = steps.faults
    assert (fault.session, fault.group, fault.index, fault.kind) == (11, 0, 0, "raised")
    assert "the simulator fell over" in fault.traceback
    assert message.seq == 1
    assert after.flags.tolist() == [FIRST, 0]
    assert after.run_ids[0] not in (0, first.run_ids[0])
    assert after.run_ids[1] == first.run_ids[1]


def test_all_environments_in_quarantine_end_the_server(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, fall)
    served = serve(2)
    steps = Steps(learner)
    steps.welcome(learner.receive(Hello))
    rows = []
    while isinstance(message := learner.receive_any(), Step | Fault):
        if isinstance(message, Step):
            rows.append(check_step(message, POINT, 2))
            learner.act(message, [0, 0])
        else:
            steps.faults.append(message)
    assert isinstance(message, Goodbye)
    assert message.session == 11
    last = re.fullmatch(
        "all environments have failed too often; the last fault: environment [01] of group 0 "
        "raised: RuntimeError: the simulator fell over",
        message.reason,
    )
    assert last is not None
    assert served.lines[-1] == last.string
    assert served.wait() == 1
    for index in range(2):
        own = [fault.quarantined for fault in steps.faults if fault.index == index]
        assert own == [False] * 4 + [True]
    assert len(steps.faults) == 10
    # Not a row for each time that a learner answers: a group that is all down waits.
    assert len(rows) <= 2 + 3 * 4 * 2
    down = [row for row in rows if not row.run_ids.any()]
    assert down
    assert all((row.flags == FIRST).all() for row in down)
    assert sum("stays down" in line for line in served.lines) == 2


def test_what_waits_for_a_restart_is_forgotten_with_its_session(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = offer_single(monkeypatch, fall)
    serve(2, supervision=Supervision(jitter=lambda: 1e4))
    hello = learner.receive(Hello)
    steps = Steps(learner)
    steps.welcome(hello)
    for _ in range(3):
        message, _ = steps.next()
        learner.act(message, [0, 0])
    learner.expect_silence()
    made = len(factory.made)
    learner.send(Refusal("the session has ended", True))
    assert learner.receive(Hello) == hello
    steps.welcome(hello, session=12)
    message, row = steps.next()
    assert (message.session, message.seq) == (12, 0)
    # They wait for their restart, whatever sessions come and go.
    assert not row.run_ids.any()
    assert len(factory.made) == made


def test_a_new_session_hears_what_stays_down(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, lambda env, what: fall(env, what) if env.number != 1 else None)
    serve(2, supervision=Supervision(jitter=lambda: 0.0))
    hello = learner.receive(Hello)
    steps = Steps(learner)
    steps.welcome(hello)
    while len(steps.faults) < 5:
        message, _ = steps.next()
        learner.act(message, [0, 0])
    learner.send(Goodbye(11, "the learner was stopped"))
    while not isinstance(learner.receive_any(), Hello):
        pass
    steps.faults.clear()
    steps.welcome(hello, session=12)
    _, row = steps.next()
    (fault,) = steps.faults
    assert (fault.session, fault.index, fault.quarantined, fault.repeated) == (12, 0, True, True)
    assert row.run_ids[0] == 0
    assert row.run_ids[1] != 0


def test_the_end_of_the_process_before_is_told_and_counted(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, lambda env, what: None)
    supervision = Supervision(server_id=77, crash=CrashReport("hung", 1, 1, "Timeout!"))
    supervision.shared.keep_faults_of(repr(FAILING))
    # The second environment of the second group.
    supervision.shared.faults[3] = 4
    serve(2, 2, supervision=supervision)
    hello = learner.receive(Hello)
    assert hello.server_id == 77
    steps = Steps(learner)
    steps.welcome(hello)
    rows = {message.group: row for message, row in (steps.next(), steps.next())}
    told, lasting = steps.faults
    assert told == Fault(11, 1, 1, "hung", 4, True, False, "Timeout!")
    assert (lasting.group, lasting.index, lasting.repeated) == (1, 1, True)
    assert (rows[0].run_ids != 0).all()
    assert (rows[1].run_ids != 0).tolist() == [True, False]


def test_environments_that_have_changed_are_made_by_another_process(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = offer_single(monkeypatch, lambda env, what: None)
    supervision = Supervision(supervisor=os.getppid())
    served = serve(2, supervision=supervision)
    steps = Steps(learner)
    for session in (1, 2):
        steps.welcome(learner.receive(Hello), session)
        steps.next()
        learner.send(Goodbye(session, "done"))
    monkeypatch.setattr(GroupSet, "why_not_here", lambda self, environment: "task.py has changed")
    steps.welcome(learner.receive(Hello), 3)
    assert learner.receive(Goodbye) == Goodbye(3, "task.py has changed")
    assert served.wait() == 0
    assert supervision.shared.renewing
    assert supervision.shared.exit_code is None
    assert served.lines[-1] == "task.py has changed: environments are made in a new process"
    # The second learner has got the environments of the first.
    assert len(factory.made) == 2


@pytest.mark.parametrize(
    ("fault", "line"),
    [(("raised", 1, "Traceback:\n  File\nE: a\n  b\n"), "environment 1 of group 3 raised: E: a"),
     (("crashed", None, "its process ended by SIGSEGV"),
      "group 3 crashed: its process ended by SIGSEGV"),
     (("hung", 1, "Timeout (0:05:00)!\n  File"), "environment 1 of group 3 hung"),
     (("not finite", None, ""), "group 3 not finite"),
     (("raised", 1, "E: " + "a" * 1000), "environment 1 of group 3 raised: E: " + "a" * 497)],
)  # fmt: skip
def test_a_fault_in_one_line_says_what_was_raised(
    fault: tuple[str, int | None, str], line: str
) -> None:
    kind, index, traceback = fault
    assert describe(Fault(11, 3, index, kind, 0, False, False, traceback)) == line


def test_what_a_server_says_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _say_on_stderr("refused by the learner: \x1b[2J\nseed-envserver: all is well")
    assert capsys.readouterr().err == (
        "seed-envserver: refused by the learner: \\x1b[2J\\nseed-envserver: all is well\n"
    )
