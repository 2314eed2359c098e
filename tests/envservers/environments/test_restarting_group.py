"""Groups that fail and are made anew, environment by environment or as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from envservers.environments import closing
from envservers.environments.closing import close_failed
from envservers.environments.fault_tracker import FaultTracker
from envservers.environments.group import Group, InvalidEnvironment
from envservers.environments.restarting_group import RestartingGroup
from envservers.environments.sync_group import SyncGroup
from envservers.supervision.shared_state import Supervision
from seed.wire.spaces import SpaceSpec
from tests.envservers.faulty_envs import Clock, Factory, Script, make_tracker

SPECS = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)
SEEDS, STAY = np.array([7, 8]), np.zeros(2, np.int64)

either = pytest.mark.parametrize("whole", [False, True], ids=["sync", "whole"])


def make(
    whole: bool, factory: Callable[[], Script], faults: int = 0, *, was_made: bool = False
) -> tuple[Group, FaultTracker, Clock]:
    """A group after so many faults of an earlier process."""
    clock, supervision = Clock(), Supervision(jitter=lambda: 1.0)
    supervision.shared.was_made = was_made
    supervision.shared.faults[0] = supervision.shared.faults[1] = faults
    tracker = make_tracker(1 if whole else 2, clock, whole=whole, supervision=supervision)
    if whole:
        return RestartingGroup(lambda: SyncGroup(factory, 2), 2, tracker, SPECS), tracker, clock
    return SyncGroup(factory, 2, tracker, SPECS), tracker, clock


@either
def test_what_fails_is_made_anew(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_PATIENCE_S", 0.01)
    never = threading.Event()

    def fails(env: Script, what: str) -> None:
        if env.number == 0 and what == "step":
            raise RuntimeError("it fell over")
        if env.number == 0 and what == "close":
            never.wait()

    factory = Factory(fails)
    group, tracker, _ = make(whole, factory)
    rows = [group.reset(SEEDS), *(group.step(STAY) for _ in range(2))]
    never.set()
    numbers = [row.observations[:, 0].tolist() for row in rows]
    assert numbers == ([[0, 1], [2, 3], [2, 3]] if whole else [[0, 1], [2, 1], [2, 1]])
    assert [row.restarted is not None for row in rows] == [False, True, False]
    assert rows[1].first.tolist() == [True, whole]
    assert [env.closed for env in factory.made[:2]] == [True, False]
    # Other seeds than those that led there.
    assert factory.made[0].seeds == [7]
    assert not set(factory.made[2].seeds) & {None, 7, 8}
    (fault,) = tracker.take_faults()
    index = None if whole else 0
    assert (fault.group, fault.index, fault.kind, fault.restarts) == (0, index, "raised", 0)
    assert not fault.quarantined
    assert fault.traceback.startswith("(its close() did not return within 0.01 s and was left b")
    assert fault.traceback.endswith("RuntimeError: it fell over\n")
    assert "in step" in fault.traceback


@either
def test_what_is_down_sends_rows_that_stand_for_nothing(whole: bool) -> None:
    def fails(env: Script, what: str) -> None:
        # The first of them run, and none can be made again.
        if (env.number >= 2 and what == "make") or what == "step":
            raise RuntimeError("it fell over")

    group, tracker, clock = make(whole, Factory(fails))
    assert group.reset(SEEDS).down is None
    row = group.step(STAY)
    assert row.down is not None
    assert row.down.all()
    assert row.first.all()
    assert not (row.observations.any() or row.rewards.any() or row.terminated.any())  # noqa: PT018
    restarts = [fault.restarts for fault in tracker.take_faults()]
    assert restarts == ([0, 1] if whole else [0, 0, 1, 1])
    while not tracker.is_quarantined:
        clock.now_s = tracker.ready_s
        group.step(STAY)
    # A new session finds them as they are.
    assert group.reset(SEEDS).down is not None


@either
def test_what_cannot_be_made_at_first_is_refused(whole: bool) -> None:
    def fail(env: Script, what: str) -> None:
        raise InvalidEnvironment("no such game")

    with pytest.raises(InvalidEnvironment, match="no such game"):
        make(whole, Factory(fail))


@either
def test_what_was_made_before_may_be_made_later(whole: bool) -> None:
    refused = iter(4 * [True])

    def fail(env: Script, what: str) -> None:
        if what == "make" and next(refused, False):
            raise InvalidEnvironment("no licence is free")

    group, tracker, clock = make(whole, Factory(fail), was_made=True)
    row = group.reset(SEEDS)
    assert row.down is not None
    assert row.down.all()
    assert {fault.kind for fault in tracker.take_faults()} == {"raised"}
    for _ in range(4):
        clock.now_s += 5
        group.step(STAY)
    assert not tracker.down


@either
def test_other_spaces_than_promised_are_a_fault(whole: bool) -> None:
    refused = iter([True] if whole else [True, True])

    def fail(env: Script, what: str) -> None:
        env.action_space = Discrete(9)
        if what == "make" and next(refused, False):
            raise InvalidEnvironment("no display")

    group, tracker, _ = make(whole, Factory(fail), was_made=True)
    row = group.reset(SEEDS)
    assert row.down is not None
    assert row.down.all()
    assert (group.observation, group.action) == SPECS
    assert "it has other spaces" in tracker.take_faults()[-1].traceback


@either
def test_what_is_in_quarantine_is_not_made(whole: bool) -> None:
    factory = Factory()
    group, tracker, _ = make(whole, factory, faults=5)
    for row in (group.reset(SEEDS), group.step(STAY)):
        assert row.down is not None
        assert row.down.all()
        assert row.observations.tolist() == [[0, 0], [0, 0]]
    assert tracker.is_quarantined
    assert not factory.made


def test_what_closes_is_not_spoken_of_and_what_never_does_is(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave() -> Any:
        closed.append(1)
        raise SystemExit(3)

    closed = list[int]()
    for close in (lambda: closed.append(0), leave):
        assert close_failed(close) == ""
    assert closed == [0, 1]
    monkeypatch.setattr(closing, "_PATIENCE_S", 0.01)
    never = threading.Event()
    assert "did not return within 0.01 s and was left behind" in close_failed(never.wait)
    # A whole group of them would be waited for in turn.
    monkeypatch.setattr(closing, "_IMPATIENCE_S", 0.02)
    assert "within 0.02 s" in close_failed(never.wait)
    never.set()
    for thread in closing._left_behind:
        thread.join()
    assert close_failed(lambda: None) == ""
    assert not closing._left_behind
