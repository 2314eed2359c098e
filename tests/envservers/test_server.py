"""An environment server in this thread, and a learner that says what a test tells it to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from envservers.connection import Denied
from envservers.environments.group import Group, GroupRow
from envservers.environments.group_set import GroupSet
from envservers.server import _say_on_stderr, describe
from envservers.session import Session
from envservers.supervision.shared_state import CrashReport, StepTimer, Supervision
from envservers.tasks import catch
from seed.wire.codec import check_step, encode
from seed.wire.messages import (
    EPISODE_DTYPE,
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
    Welcome,
)
from seed.wire.spaces import SpaceSpec
from tests.envservers.fake_learner import BOARD, Served, offer_function
from tests.envservers.faulty_envs import Factory, Script

FAILING = {"kind": "function", "id": "failing:make"}
POINT, PUSH = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)


def test_a_session_from_hello_to_goodbye() -> None:
    served = Served(2, 1)
    hello = served.welcome()
    assert (hello.group_sizes, hello.name) == ((2, 1), "test")
    first = [served.receive(Step) for _ in range(2)]
    assert [(step.session, step.group, step.seq) for step in first] == [(11, 0, 0), (11, 1, 0)]
    arrays = [check_step(step, BOARD, size) for step, size in zip(first, (2, 1), strict=True)]
    assert all((row.flags == FIRST).all() for row in arrays)
    run_ids = np.concatenate([row.run_ids for row in arrays])
    assert len(set(run_ids.tolist())) == 3
    served.act(first[0], 0, 2)
    step = served.receive(Step)
    assert (step.session, step.group, step.seq) == (11, 0, 1)
    row = check_step(step, BOARD, 2)
    np.testing.assert_array_equal(row.run_ids, run_ids[:2])
    # The paddles have moved to either side, the balls have fallen by a row.
    assert row.observations[:, 9].tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert (row.observations[:, 1].sum(axis=1) == 1).all()
    assert not row.flags.any()
    # The other group has waited for its own actions.
    served.act(first[1], 1)
    assert served.receive(Step).group == 1
    served.server.stop()
    assert served.wait() == 0
    assert served.receive(Goodbye) == Goodbye(11, "environment server stopped")
    assert served.connection.is_closed


def test_episode_ends_are_told() -> None:
    served = Served(1)
    served.welcome()
    flags, episodes = [], []
    for _ in range(11):
        step = served.receive(Step)
        row = check_step(step, BOARD, 1)
        flags.append(int(row.flags[0]))
        episodes.append([(*_, abs(total)) for *_, total in row.episodes.tolist()])
        served.act(step, 1)
    assert flags == [FIRST, *[0] * 8, TERMINATED, FIRST]
    assert episodes == [*[[]] * 9, [(0, 9, 1.0)], []]


def test_observations_are_sent_from_the_groups_own_memory() -> None:
    numbers, no = np.arange(4), np.zeros(4, np.bool_)
    pixels, push = SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), 4)
    row = GroupRow(
        np.zeros((4, 84, 84), np.uint8), np.zeros(4, np.float32), no, no, no,
        np.empty(0, EPISODE_DTYPE),
    )  # fmt: skip
    group = SimpleNamespace(
        observation=pixels, action=push, num_envs=4,
        reset=lambda seeds: row, step=lambda actions: row,
    )  # fmt: skip
    session = Session(Welcome(7, {}, pixels, push, numbers, numbers), [cast(Group, group)])
    for step in (*session.first_steps(), session.advance(Actions(7, 0, 0, bytes(8 * 4)))):
        sent = np.frombuffer(step.frames[1], np.uint8)
        assert sent.nbytes == row.observations.nbytes
        assert np.shares_memory(sent, row.observations)


def test_messages_that_nobody_awaits_change_nothing() -> None:
    served = Served(1)
    served.welcome()
    step = served.receive(Step)
    others = [step._replace(session=12), step._replace(group=1)]
    for other in (*others, step._replace(seq=1), step._replace(seq=7)):
        served.act(other, 0)
    served.send(Goodbye(12, "to somebody else"), Refusal("of a session before", True, 12), Ping(11))
    # Sent twice, by a network that repeats itself.
    for _ in range(2):
        served.act(step, 2)
    after = served.receive(Step)
    assert after.seq == 1
    assert check_step(after, BOARD, 1).observations[0, 9].tolist() == [0, 0, 0, 1, 0]
    served.expect_silence()
    assert served.server.dropped_messages == 7


# The learner waits for this group's next row: to go on in silence would stall it for ever.
@pytest.mark.parametrize(
    ("frames", "reason", "line"),
    [([*encode(Actions(11, 0, 0, actions.tobytes()))], "actions: expected", "cannot be taken")
     for actions in (np.zeros(2, np.int64), np.array([3]), np.array([-1]))]
    + [([b"\xc1 no msgpack"], "not a msgpack map", "cannot be used")],
)  # fmt: skip
def test_a_message_that_cannot_be_used_ends_the_session(
    frames: list[Frame], reason: str, line: str
) -> None:
    served = Served(1)
    served.welcome()
    served.receive(Step)
    served.send_frames(frames)
    assert reason in served.receive(Goodbye).reason
    served.welcome(12)
    assert served.receive(Step).session == 12
    assert sum(line in said for said in served.lines) == 1


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize(
    ("word", "line"),
    [(Goodbye(11, "training is complete"), "the learner says goodbye: training is complete"),
     # Nothing comes from a learner that was killed.
     (None, "lost the connection to tcp://learner:1")],
)  # fmt: skip
def test_the_end_of_the_learner_ends_a_server_of_one_learner(
    word: Message | None, line: str, once: bool
) -> None:
    served = Served(2, once=once)
    hello = served.welcome()
    step = served.receive(Step)
    before = check_step(step, BOARD, 2)
    served.act(step, 1, 1)
    served.receive(Step)
    if word is not None:
        served.send(word)
    else:
        served.change(False)
    if once:
        assert served.wait() == 0
    else:
        served.server.turn()
        served.change(True)
        assert served.welcome(12) == hello
        step = served.receive(Step)
        assert (step.session, step.seq) == (12, 0)
        after = check_step(step, BOARD, 2)
        assert not set(before.run_ids.tolist()) & set(after.run_ids.tolist())
        # The seeds are the same, so the boards are.
        np.testing.assert_array_equal(after.observations, before.observations)
    assert served.lines[1] == line


def test_the_same_environment_is_kept_and_another_replaces_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def make(num_envs: int) -> Any:
        calls.append(num_envs)
        return catch.make(num_envs)

    offer_function("counting", make, monkeypatch)
    served = Served(2)
    hello = served.receive(Hello)
    for session in (11, 12):
        served.send_welcome(hello, session, environment={"kind": "function", "id": "counting:make"})
        assert served.receive(Step).session == session
    assert calls == [2]
    chain = {"kind": "function", "id": "envservers.tasks.memory_chain:make"}
    observation, action = SpaceSpec("float32", (3,)), SpaceSpec("int64", (), 2)
    served.send_welcome(hello, environment=chain, observation=observation, action=action)
    row = check_step(served.receive(Step), observation, 2)
    assert row.observations.shape == (2, 3)


def test_a_refusal_for_now_is_followed_by_one_hello() -> None:
    served = Served(1, 1, supervision=Supervision(jitter=lambda: 1.0))
    hello = served.receive(Hello)
    served.send(Refusal("no room", True))
    assert served.welcome() == hello
    first = [served.receive(Step) for _ in range(2)]
    served.act(first[0], 1)
    served.receive(Step)
    began_s = served.connection.now_s
    # The learner has forgotten the session and answers the STEP of either group.
    served.send(*[Refusal("unknown session", True)] * 2)
    assert served.welcome(12) == hello
    # It has worked with the session: the wait is the shortest again.
    assert served.connection.now_s - began_s == pytest.approx(0.2, abs=0.05)
    assert served.server.dropped_messages == 1
    again = [served.receive(Step) for _ in range(2)]
    assert [(step.session, step.group) for step in again] == [(12, 0), (12, 1)]
    assert sum("another attempt" in line for line in served.lines) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"environment": {"kind": "function", "id": "no_such:thing"}}, "No module named 'no_such'"),
     ({"observation": SpaceSpec("uint8", (84, 84))}, "the environment's observation is"),
     ({"action": SpaceSpec("int64", (), 4)}, "the environment's action is")],
)  # fmt: skip
def test_an_environment_that_cannot_be_run_ends_the_server(
    changes: dict[str, Any], reason: str
) -> None:
    served = Served(1)
    served.welcome(**changes)
    goodbye = served.receive(Goodbye)
    assert goodbye.session == 11
    assert reason in goodbye.reason
    assert served.wait() == 2
    assert reason in served.lines[-1]


def test_a_welcome_for_another_number_is_ignored() -> None:
    served = Served(1)
    hello = served.welcome(env_ids=np.arange(2), seeds=np.arange(2))
    served.send_welcome(hello, seeds=np.array([-1]))
    served.send_welcome(hello)
    assert served.receive(Step).session == 11
    assert sum("expected 1 environments" in line for line in served.lines) == 2


def test_a_learner_that_never_stops_talking_does_not_keep_the_server(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = Supervision()
    served = Served(1, 1, once=True, supervision=supervision)

    def messages() -> Iterator[list[Frame]]:
        for _ in range(1000):
            yield [*encode(Ping(11))]
            supervision.shared.starter_ended = True
        raise AssertionError("it listens for ever")

    monkeypatch.setattr(served.connection, "messages", messages)
    assert served.wait() == 0


def test_a_refusal_for_good_ends_the_server() -> None:
    served = Served(1)
    served.receive(Hello)
    served.send(Refusal("another protocol", False))
    assert served.wait() == 2
    assert served.lines == ["refused by the learner: another protocol"]


# It would say HELLO to nobody, and a server of one learner would not say why it leaves.
def test_all_messages_come_before_the_end_of_their_connection() -> None:
    served = Served(1)
    served.receive(Hello)
    served.send(Ping(11), Ping(11), Goodbye(11, "that was all"))
    served.change(False)
    while served.connection.news:
        served.server.turn()
    assert [line.split(":")[0] for line in served.lines] == [
        "the learner says goodbye", "lost the connection to tcp"
    ]  # fmt: skip


def test_silence_is_told_and_hello_repeated() -> None:
    served = Served(1)
    hellos = {served.receive(Hello) for _ in range(4)}
    assert len(hellos) == 1
    told = "no answer from the learner at tcp://learner:1 yet; still waiting"
    assert served.lines == [told]


def test_a_server_without_a_learner_says_so_and_may_give_up() -> None:
    served = Served(1, wait_s=50.0)
    served.connection.news.clear()
    served.connection.warning = "; it may have keys"
    assert served.wait() == 1
    waiting = "waiting for a learner at tcp://learner:1; it may have keys"
    gave_up = "no session with a learner at tcp://learner:1 within 50 s"
    assert served.lines == [waiting, waiting, gave_up]
    # Whoever waits may be shown the reason that the learner gave.
    served = Served(1, wait_s=50.0)
    served.receive(Hello)
    served.send(Refusal("no room", True))
    assert served.wait() == 1
    assert served.lines[-1] == f"{gave_up}: no room"


def test_a_warning_is_told_at_once_and_a_late_welcome_dropped(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(1)
    hello = served.receive(Hello)
    served.change(False)
    while len(served.lines) < 2:
        served.server.turn()
    # Of the connection that was lost.
    served.send_welcome(hello)
    served.server.turn()
    assert served.server.dropped_messages == 1
    told = len(served.lines)

    def changes() -> Iterator[bool]:
        served.connection.warning = "; it may have keys"
        yield served.connection.news.popleft()

    monkeypatch.setattr(served.connection, "changes", changes)
    for _ in range(2):
        served.change(False)
        served.server.turn()
    assert served.lines[told:] == ["waiting for a learner at tcp://learner:1; it may have keys"]


def test_a_server_that_is_denied_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def changes() -> Iterator[bool]:
        yield True
        raise Denied("this key is not allowed")

    served = Served(1)
    monkeypatch.setattr(served.connection, "changes", changes)
    assert served.wait() == 76
    assert served.lines == ["this key is not allowed"]


def test_signals_stop_a_server_only_where_its_supervisor_was_asked() -> None:
    class Recording(StepTimer):
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    timer = Recording()
    supervision = Supervision(step_timer=timer)
    served = Served(1, supervision=supervision)
    served.welcome()
    step = served.receive(Step)
    # As an environment may have it, by a signal to its own process.
    served.server.wake()
    served.act(step, 1)
    served.receive(Step)
    assert (timer.stopped, supervision.shared.ending) == (False, False)
    supervision.shared.asked = True
    served.server.wake()
    # What comes now is not looked at any more.
    served.send(Refusal("the learner is full", False))
    assert served.wait() == 0
    assert served.receive(Goodbye).reason == "environment server stopped"
    # From here on, the supervisor has a deadline for it.
    assert (timer.stopped, supervision.shared.ending) == (True, True)
    assert supervision.shared.exit_code == 0


def test_a_server_leaves_without_its_supervisor_or_its_starter() -> None:
    assert Served(1, supervision=Supervision(parent=-1)).wait() == 0
    supervision = Supervision()
    served = Served(1, once=True, supervision=supervision)
    served.welcome()
    served.receive(Step)
    supervision.shared.starter_ended = True
    assert served.wait() == 0
    assert "started this one has ended" in served.receive(Goodbye).reason


def fall(env: Script, what: str) -> None:
    if what == "step":
        raise RuntimeError("the simulator fell over")


class Failing(Served):
    """One with groups of two scripted environments, made one by one."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[Script, str], Any] = fall,
        sizes: tuple[int, ...] = (2,), **options: Any,
    ) -> None:  # fmt: skip
        self.factory, self.faults = Factory(fails), list[Fault]()
        offer_function("failing", lambda: self.factory(), monkeypatch)
        super().__init__(*sizes, **options)

    def send_welcome(self, hello: Hello, session: int = 11, **changes: Any) -> None:
        changes = {"environment": FAILING, "observation": POINT, "action": PUSH, **changes}
        super().send_welcome(hello, session, **changes)

    def next(self) -> tuple[Step, StepArrays]:
        """The next STEP; faults before it are kept."""
        while isinstance(message := self.receive_any(), Fault):
            self.faults.append(message)
        assert isinstance(message, Step), message
        return message, check_step(message, POINT, 2)


def test_an_environment_that_fails_begins_a_new_history(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Failing(monkeypatch, lambda env, what: fall(env, what) if env.number == 0 else None)
    served.welcome()
    message, first = served.next()
    served.act(message, 0, 0)
    message, after = served.next()
    (fault,) = served.faults
    assert (fault.session, fault.group, fault.index, fault.kind) == (11, 0, 0, "raised")
    assert "the simulator fell over" in fault.traceback
    assert message.seq == 1
    assert after.flags.tolist() == [FIRST, 0]
    assert after.run_ids[0] not in (0, first.run_ids[0])
    assert after.run_ids[1] == first.run_ids[1]


def test_all_environments_in_quarantine_end_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Failing(monkeypatch)
    served.welcome()
    rows = []
    while isinstance(message := served.receive_any(), Step | Fault):
        if isinstance(message, Step):
            rows.append(check_step(message, POINT, 2))
            served.act(message, 0, 0)
        else:
            served.faults.append(message)
    assert isinstance(message, Goodbye)
    assert message.session == 11
    assert re.fullmatch(
        "all environments have failed too often; the last fault: environment [01] of group 0 "
        "raised: RuntimeError: the simulator fell over",
        message.reason,
    )
    assert served.lines[-1] == message.reason
    assert served.wait() == 1
    for index in range(2):
        own = [fault.quarantined for fault in served.faults if fault.index == index]
        assert own == [False] * 4 + [True]
    assert len(served.faults) == 10
    # Not a row for each time that a learner answers: a group that is all down waits.
    assert len(rows) <= 2 + 3 * 4 * 2
    down = [row for row in rows if not row.run_ids.any()]
    assert down
    assert all((row.flags == FIRST).all() for row in down)
    assert sum("stays down" in line for line in served.lines) == 2


def test_what_waits_for_a_restart_is_forgotten_with_its_session(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Failing(monkeypatch, supervision=Supervision(jitter=lambda: 1e4))
    hello = served.welcome()
    for _ in range(3):
        message, _ = served.next()
        served.act(message, 0, 0)
    served.expect_silence()
    made = len(served.factory.made)
    served.send(Refusal("the session has ended", True))
    assert served.welcome(12) == hello
    message, row = served.next()
    assert (message.session, message.seq) == (12, 0)
    # They wait for their restart, whatever sessions come and go.
    assert not row.run_ids.any()
    assert len(served.factory.made) == made


def test_a_new_session_hears_what_stays_down(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Failing(
        monkeypatch, lambda env, what: fall(env, what) if env.number != 1 else None,
        supervision=Supervision(jitter=lambda: 0.0),
    )  # fmt: skip
    hello = served.welcome()
    while len(served.faults) < 5:
        message, _ = served.next()
        served.act(message, 0, 0)
    served.send(Goodbye(11, "the learner was stopped"))
    while not isinstance(served.receive_any(), Hello):
        pass
    served.faults.clear()
    served.send_welcome(hello, 12)
    _, row = served.next()
    (fault,) = served.faults
    assert (fault.session, fault.index, fault.quarantined, fault.repeated) == (12, 0, True, True)
    assert row.run_ids[0] == 0
    assert row.run_ids[1] != 0


def test_the_end_of_the_process_before_is_told_and_counted(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = Supervision(server_id=77, crash=CrashReport("hung", 1, 1, "Timeout!"))
    supervision.shared.keep_faults_of(repr(FAILING))
    # The second environment of the second group.
    supervision.shared.faults[3] = 4
    served = Failing(monkeypatch, lambda env, what: None, (2, 2), supervision=supervision)
    assert served.welcome().server_id == 77
    rows = {message.group: row for message, row in (served.next(), served.next())}
    told, lasting = served.faults
    assert told == Fault(11, 1, 1, "hung", 4, True, False, "Timeout!")
    assert (lasting.group, lasting.index, lasting.repeated) == (1, 1, True)
    assert (rows[0].run_ids != 0).all()
    assert (rows[1].run_ids != 0).tolist() == [True, False]


def test_environments_that_have_changed_are_made_by_another_process(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = Supervision(supervisor=os.getppid())
    served = Failing(monkeypatch, lambda env, what: None, supervision=supervision)
    for session in (1, 2):
        served.welcome(session)
        served.next()
        served.send(Goodbye(session, "done"))
    monkeypatch.setattr(GroupSet, "why_not_here", lambda self, environment: "task.py has changed")
    served.welcome(3)
    assert served.receive(Goodbye) == Goodbye(3, "task.py has changed")
    assert served.wait() == 0
    assert supervision.shared.renewing
    assert supervision.shared.exit_code is None
    assert served.lines[-1] == "task.py has changed: environments are made in a new process"
    # The second learner has got the environments of the first.
    assert len(served.factory.made) == 2


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


# A learner is trusted with what is run here, but its text may come from elsewhere.
def test_what_a_server_says_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _say_on_stderr("refused by the learner: \x1b[2J\nseed-envserver: all is \u202ewell")
    assert capsys.readouterr().err == (
        "seed-envserver: refused by the learner: \\x1b[2J\\nseed-envserver: all is \\u202ewell\n"
    )
