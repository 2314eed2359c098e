"""What an environment server tells the learner of environments that fail."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from envservers.environments.group import InvalidEnvironment
from envservers.environments.group_set import AllGroups, LostEnvironment
from envservers.environments.instances import SameInstance
from envservers.environments.sources import Sources
from envservers.server import _say_on_stderr, describe
from envservers.supervision import recovery
from envservers.supervision.shared_state import CrashReport, StepTimer, Supervision
from envservers.tasks import catch
from seed.wire import codec, messages
from seed.wire.spaces import SpaceSpec
from tests.envservers.fake_learner import BOARD, MOVE, FakeLearner
from tests.envservers.faulty_envs import Factory, Script
from tests.envservers.running import Running, Serve, offer_function

FAILING = {"kind": "function", "id": "failing:make"}


def offer_single(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Script, str], Any]) -> Factory:
    """Offers FAILING: scripted environments, made one by one."""
    factory = Factory(fails)
    offer_function("failing", lambda: factory(), monkeypatch)
    return factory


def fall(env: Script, what: str) -> None:
    if what == "step":
        raise RuntimeError("the simulator fell over")


def make_failing(num_envs: int) -> Any:
    """A vector environment that raises on its second step."""

    class Failing(catch.Catch):
        steps = 0

        def step(self, actions: Any) -> Any:
            self.steps += 1
            if self.steps == 2:
                raise RuntimeError("the simulator fell over")
            return super().step(actions)

    return Failing(num_envs, 10, 5)


class Steps:
    """What a fake learner gets of a group of scripted environments."""

    def __init__(self, learner: FakeLearner) -> None:
        self.learner, self.faults = learner, list[messages.Fault]()

    def welcome(self, hello: messages.Hello, session: int = 11) -> None:
        self.learner.welcome(hello, session, environment=FAILING, observation=POINT, action=PUSH)

    def next(self) -> tuple[messages.Step, messages.StepArrays]:
        """The next STEP; faults before it are kept."""
        while isinstance(message := self.learner.receive_any(), messages.Fault):
            self.faults.append(message)
        assert isinstance(message, messages.Step), message
        return message, codec.check_step(message, POINT, 2)


POINT, PUSH = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)


def test_an_environment_that_fails_begins_a_new_history(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, lambda env, what: fall(env, what) if env.number == 0 else None)
    serve(2)
    steps = Steps(learner)
    steps.welcome(learner.receive(messages.Hello))
    message, first = steps.next()
    learner.act(message, [0, 0])
    message, after = steps.next()
    (fault,) = steps.faults
    assert (fault.session, fault.group, fault.index, fault.kind) == (11, 0, 0, "raised")
    assert "the simulator fell over" in fault.traceback
    assert message.seq == 1
    assert after.flags.tolist() == [messages.FIRST, 0]
    assert after.run_ids[0] not in (0, first.run_ids[0])
    assert after.run_ids[1] == first.run_ids[1]


def test_all_environments_in_quarantine_end_the_server(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "backoff_s", lambda faults: 0.1 * (faults > 1))
    offer_single(monkeypatch, fall)
    running = serve(2)
    steps = Steps(learner)
    steps.welcome(learner.receive(messages.Hello))
    rows = []
    while isinstance(message := learner.receive_any(), messages.Step | messages.Fault):
        if isinstance(message, messages.Step):
            rows.append(codec.check_step(message, POINT, 2))
            learner.act(message, [0, 0])
        else:
            steps.faults.append(message)
    assert isinstance(message, messages.Goodbye)
    assert message.session == 11
    last = re.fullmatch(
        "all environments have failed too often; the last fault: environment [01] of group 0 "
        "raised: RuntimeError: the simulator fell over",
        message.reason,
    )
    assert last is not None
    assert running.lines[-1] == last.string
    assert running.wait() == 1
    for index in range(2):
        own = [fault.quarantined for fault in steps.faults if fault.index == index]
        assert own == [False] * 4 + [True]
    assert len(steps.faults) == 10
    # Not a row for each time that a learner answers: a group that is all down waits.
    assert len(rows) <= 2 + 3 * 4 * 2
    down = [row for row in rows if not row.run_ids.any()]
    assert down
    assert all((row.flags == messages.FIRST).all() for row in down)
    assert sum("stays down" in line for line in running.lines) == 2


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
    assert describe(messages.Fault(11, 3, index, kind, 0, False, False, traceback)) == line


def test_what_a_server_says_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _say_on_stderr("refused by the learner: \x1b[2J\nseed-envserver: all is well")
    assert capsys.readouterr().err == (
        "seed-envserver: refused by the learner: \\x1b[2J\\nseed-envserver: all is well\n"
    )


def test_what_waits_for_a_restart_is_forgotten_with_its_session(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "backoff_s", lambda faults: 1e6 * (faults > 1))
    factory = offer_single(monkeypatch, fall)
    running = serve(2)
    hello = learner.receive(messages.Hello)
    steps = Steps(learner)
    steps.welcome(hello)
    for _ in range(3):
        message, _ = steps.next()
        learner.act(message, [0, 0])
    learner.expect_silence()
    made = len(factory.made)
    learner.send(messages.Refusal("the session has ended", True))
    assert learner.receive(messages.Hello) == hello
    steps.welcome(hello, session=12)
    message, row = steps.next()
    assert (message.session, message.seq) == (12, 0)
    # They wait for their restart, whatever sessions come and go.
    assert not row.run_ids.any()
    assert len(factory.made) == made
    assert running.exit_code is None


def test_a_new_session_hears_what_stays_down(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "backoff_s", lambda faults: 0.0)
    offer_single(monkeypatch, lambda env, what: fall(env, what) if env.number != 1 else None)
    serve(2)
    hello = learner.receive(messages.Hello)
    steps = Steps(learner)
    steps.welcome(hello)
    while len(steps.faults) < 5:
        message, _ = steps.next()
        learner.act(message, [0, 0])
    learner.send(messages.Goodbye(11, "the learner was stopped"))
    while not isinstance(learner.receive_any(), messages.Hello):
        pass
    steps.faults.clear()
    steps.welcome(hello, session=12)
    _, row = steps.next()
    (fault,) = steps.faults
    assert (fault.session, fault.index, fault.quarantined, fault.repeated) == (12, 0, True, True)
    assert row.run_ids[0] == 0
    assert row.run_ids[1] != 0


def test_the_end_of_the_process_before_is_told_and_counted(
    learner: FakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, lambda env, what: None)
    supervision = Supervision(server_id=77, crash=CrashReport("hung", 1, 1, "Timeout!"))
    supervision.shared.keep_faults_of(repr(FAILING))
    # The second environment of the second group.
    supervision.shared.faults[3] = 4
    running = Running(learner.address, 2, 2, supervision=supervision)
    try:
        hello = learner.receive(messages.Hello)
        assert hello.server_id == 77
        steps = Steps(learner)
        steps.welcome(hello)
        rows = {message.group: row for message, row in (steps.next(), steps.next())}
        told, lasting = steps.faults
        assert told == messages.Fault(11, 1, 1, "hung", 4, True, False, "Timeout!")
        assert (lasting.group, lasting.index, lasting.repeated) == (1, 1, True)
        assert (rows[0].run_ids != 0).all()
        assert (rows[1].run_ids != 0).tolist() == [True, False]
    finally:
        running.stop()


def test_what_ran_before_and_cannot_be_made_for_now_is_down(
    learner: FakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process before this one was ended, and the machine has not got over it yet."""
    refused = iter(3 * [True])

    def fail(env: Script, what: str) -> None:
        if what == "make" and next(refused, False):
            raise OSError("no memory")

    offer_single(monkeypatch, fail)
    supervision = Supervision(crash=CrashReport("hung", 0, 0, ""))
    supervision.shared.keep_faults_of(repr(FAILING))
    supervision.shared.was_made = True
    running = Running(learner.address, 2, supervision=supervision)
    try:
        steps = Steps(learner)
        steps.welcome(learner.receive(messages.Hello))
        message, row = steps.next()
        assert not row.run_ids.any()
        assert "no memory" in steps.faults[-1].traceback
        learner.act(message, [0, 0])
        _, row = steps.next()
        assert row.run_ids.any()
        assert running.exit_code is None
    finally:
        running.stop()


def test_a_package_that_is_gone_is_for_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    offer_single(monkeypatch, lambda env, what: None)
    supervision = Supervision()
    groups = AllGroups([1], supervision)
    groups.make(FAILING, (POINT, PUSH))
    groups.close()
    monkeypatch.delitem(sys.modules, "failing")
    with pytest.raises(LostEnvironment, match="No module named 'failing'"):
        groups.make(FAILING, (POINT, PUSH))
    supervision.shared.was_made = False
    with pytest.raises(InvalidEnvironment, match="No module named 'failing'"):
        groups.make(FAILING, (POINT, PUSH))


def test_edited_or_other_environments_are_made_by_another_process(
    learner: FakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, other = "", dict[str, Any]()
    monkeypatch.setattr(Sources, "find_changed", lambda self: changed)
    for other, reason in (({}, "task.py has changed"), ({"kwargs": {}}, "another environment")):
        changed = ""
        factory = offer_single(monkeypatch, lambda env, what: None)
        supervision = Supervision(supervisor=os.getppid())
        running = Running(learner.address, 2, supervision=supervision)
        try:
            steps = Steps(learner)
            for session in (1, 2):
                steps.welcome(learner.receive(messages.Hello), session)
                steps.next()
                learner.send(messages.Goodbye(session, "done"))
            # The second learner has got the environments of the first.
            assert len(factory.made) == 2
            supervision.shared.faults[1] = 5
            changed = "" if other else "task.py"
            learner.welcome(
                learner.receive(messages.Hello), 3, environment={**FAILING, **other},
                observation=POINT, action=PUSH,
            )  # fmt: skip
            goodbye = learner.receive(messages.Goodbye)
            assert goodbye.session == 3
            assert reason in goodbye.reason
            assert running.wait() == 0
        finally:
            running.stop()
        assert supervision.shared.renewing
        assert supervision.shared.exit_code is None
        assert any(reason in line and "in a new process" in line for line in running.lines)
        # What has been edited may run now.
        assert supervision.shared.faults[1] == (5 if other else 0)
        assert len(factory.made) == 2


def test_a_file_that_is_edited_after_its_environments_were_made_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_task.py"
    path.write_text("from envservers.tasks.catch import make\n")
    environment = {"kind": "function", "id": "edited_task:make"}
    groups = AllGroups([1], Supervision(supervisor=1))
    assert groups.why_not_here(environment) == ""
    groups.make(environment, (BOARD, MOVE))
    path.write_text("from envservers.tasks.catch import make  # edited\n")
    assert groups.why_not_here(environment) == f"{path} has changed"
    monkeypatch.delitem(sys.modules, path.stem)


def test_one_object_for_two_groups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Script(0, lambda env, what: None)
    offer_function("failing", lambda: only, monkeypatch)
    with pytest.raises(SameInstance):
        AllGroups([1, 1], Supervision()).make(FAILING, (POINT, PUSH))


def test_the_supervisor_learns_that_a_server_is_about_to_end(learner: FakeLearner) -> None:
    class Recording(StepTimer):
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    timer = Recording()
    supervision = Supervision(step_timer=timer)
    running = Running(learner.address, 1, supervision=supervision)
    learner.receive(messages.Hello)
    assert not timer.stopped
    assert not supervision.shared.ending
    running.stop()
    assert timer.stopped
    assert supervision.shared.ending


def test_faults_of_another_environment_are_forgotten(
    learner: FakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_single(monkeypatch, lambda env, what: None)
    supervision = Supervision(crash=CrashReport("crashed", 0, 0, ""))
    supervision.shared.keep_faults_of("another one")
    supervision.shared.faults[0] = 5
    running = Running(learner.address, 2, supervision=supervision)
    try:
        steps = Steps(learner)
        steps.welcome(learner.receive(messages.Hello))
        _, row = steps.next()
        assert (row.run_ids != 0).all()
        assert [(fault.kind, fault.quarantined) for fault in steps.faults] == [("crashed", False)]
    finally:
        running.stop()


def test_a_vector_environment_fails_as_a_whole(
    learner: FakeLearner, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_function("failing", make_failing, monkeypatch)
    serve(2)
    learner.welcome(learner.receive(messages.Hello), environment=FAILING)
    for _ in range(2):
        learner.act(learner.receive(messages.Step), [1, 1])
    fault = learner.receive(messages.Fault)
    assert (fault.group, fault.index) == (0, None)
    row = codec.check_step(learner.receive(messages.Step), BOARD, 2)
    assert (row.flags == messages.FIRST).all()
    assert (row.run_ids != 0).all()


def test_a_server_without_its_supervisor_leaves(learner: FakeLearner) -> None:
    running = Running(learner.address, 1, supervision=Supervision(parent=-1))
    try:
        assert running.wait() == 0
    finally:
        running.stop()


def test_a_server_of_one_learner_leaves_with_its_supervisors_starter(learner: FakeLearner) -> None:
    supervision = Supervision()
    running = Running(learner.address, 1, once=True, supervision=supervision)
    try:
        learner.welcome(learner.receive(messages.Hello))
        learner.receive(messages.Step)
        supervision.shared.starter_ended = True
        assert "started this one has ended" in learner.receive(messages.Goodbye).reason
        assert running.wait() == 0
        assert supervision.shared.exit_code == 0
    finally:
        running.stop()
