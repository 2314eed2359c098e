"""All groups of a server: which process may make them, and what is known of the one before."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from envservers.environments.group import InvalidEnvironment
from envservers.environments.group_set import GroupSet, LostEnvironment
from envservers.environments.instances import SameInstance
from envservers.supervision.shared_state import CrashReport, Supervision
from envservers.tasks import catch
from tests.envservers.fake_learner import BOARD, MOVE, offer_function
from tests.envservers.faulty_envs import Factory

TASK = {"kind": "function", "id": "edited_task:make"}
SOURCE = "from envservers.tasks.catch import make\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_task.py"
    path.write_text(SOURCE)
    monkeypatch.setitem(sys.modules, path.stem, sys)
    del sys.modules[path.stem]
    return path


@pytest.mark.parametrize(
    ("edit", "changed"),
    [(lambda path: None, False), (lambda path: path.write_text(SOURCE + "#\n"), True),
     # An older file in its place; and where there is none, there is no new code.
     (lambda path: os.utime(path, (1.0, 1.0)), True), (lambda path: path.unlink(), False)],
)  # fmt: skip
def test_edited_environments_are_made_by_another_process(
    path: Path, edit: Callable[[Path], object], changed: bool
) -> None:
    supervision = Supervision(supervisor=1)
    groups = GroupSet([1], supervision)
    assert groups.why_not_here(TASK) == ""
    groups.make(TASK, (BOARD, MOVE))
    supervision.shared.faults[0] = 5
    assert groups.why_not_here({**TASK, "kwargs": {}}) == "the learner wants another environment"
    edit(path)
    assert groups.why_not_here(TASK) == (f"{path} has changed" if changed else "")
    # What has been edited may run now.
    assert supervision.shared.faults[0] == (0 if changed else 5)
    # Without a supervisor there is no other process, and what was imported before is known.
    for earlier in (Supervision(), supervision):
        groups = GroupSet([1], earlier)
        groups.make(TASK, (BOARD, MOVE))
        path.write_text(SOURCE + "##\n")
        assert groups.why_not_here(TASK) == ""


def test_a_package_that_is_gone_is_for_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    offer_function("edited_task", catch.make, monkeypatch)
    supervision = Supervision()
    groups = GroupSet([1], supervision)
    groups.make(TASK, (BOARD, MOVE))
    groups.close()
    monkeypatch.delitem(sys.modules, "edited_task")
    with pytest.raises(LostEnvironment, match="No module named 'edited_task'"):
        groups.make(TASK, (BOARD, MOVE))
    supervision.shared.was_made = False
    with pytest.raises(InvalidEnvironment, match="No module named 'edited_task'"):
        groups.make(TASK, (BOARD, MOVE))


def test_one_object_for_two_groups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Factory()()
    offer_function("edited_task", lambda: only, monkeypatch)
    with pytest.raises(SameInstance):
        GroupSet([1, 1], Supervision()).make(TASK, (BOARD, MOVE))


@pytest.mark.parametrize(
    ("group", "index", "of", "faults", "restarts", "quarantined"),
    [(1, 1, TASK, [0, 0, 0, 5], 4, True), (1, None, TASK, [0, 0, 1, 4], 0, False),
     # Nobody knows where, or it was of another environment.
     (None, None, TASK, [0, 0, 0, 4], 0, False), (1, 1, {}, [0, 0, 0, 0], 0, False)],
)  # fmt: skip
def test_the_end_of_the_process_before_counts_against_what_it_stepped(
    group: int | None, index: int | None, of: dict[str, str], faults: list[int],
    restarts: int, quarantined: bool,
) -> None:  # fmt: skip
    supervision = Supervision(crash=CrashReport("hung", group, index, "Timeout!"))
    supervision.shared.keep_faults_of(repr(of))
    supervision.shared.faults[3] = 4
    groups = GroupSet([2, 2], supervision)
    fault = groups.take_crash_report(TASK)
    assert fault is not None
    assert (fault.group, fault.index, fault.kind, fault.traceback) == (
        group, index, "hung", "Timeout!"
    )  # fmt: skip
    assert (fault.restarts, fault.quarantined) == (restarts, quarantined)
    assert [*supervision.shared.faults[:4]] == faults
    assert groups.take_crash_report(TASK) is None
