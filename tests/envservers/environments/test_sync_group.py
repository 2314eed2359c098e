from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.wrappers import TimeLimit

from envservers.environments import closing
from envservers.environments.group import InvalidEnvironment
from envservers.environments.instances import Instances, SameInstance
from envservers.environments.sync_group import SyncGroup
from envservers.supervision.shared_state import NOBODY, Supervision
from seed.wire.spaces import SpaceSpec
from tests.envservers.faulty_envs import Clock, Factory, Script, make_tracker

STAY = np.zeros(2, np.int64)
SEEDS = np.array([7, 8])
SPECS = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def at(number: int, what: str, act: Callable[[], Any]) -> Callable[[Script, str], Any]:
    """What `Script` calls: the environment with this number does it on every such occasion."""
    return lambda env, now: act() if (env.number, now) == (number, what) else None


def fall() -> None:
    raise RuntimeError("it fell over")


def test_one_that_raises_is_made_anew_and_the_others_go_on(clock: Clock) -> None:
    factory = Factory(at(0, "step", fall))
    tracker = make_tracker(2, clock)
    group = SyncGroup(factory, 2, tracker)
    row = group.reset(SEEDS)
    assert row.down is None
    assert row.first.all()
    row = group.step(STAY)
    assert row.observations.tolist() == [[2, 0], [1, 1]]
    assert row.rewards.tolist() == [0, 1]
    assert row.first.tolist() == [True, False]
    assert row.restarted is not None
    assert row.restarted.tolist() == [True, False]
    assert row.down is not None
    assert not row.down.any()
    assert factory.made[0].closed
    # Another seed than the one that led there.
    (seed,) = factory.made[2].seeds
    assert seed not in (None, 7)
    (fault,) = tracker.take_faults()
    assert (fault.group, fault.index, fault.kind, fault.restarts) == (0, 0, "raised", 0)
    assert not fault.quarantined
    assert fault.traceback.endswith("RuntimeError: it fell over\n")
    assert "in step" in fault.traceback
    row = group.step(STAY)
    assert row.restarted is None
    assert row.observations.tolist() == [[2, 1], [1, 2]]
    row = group.step(STAY)
    # The episode of the environment made anew began two rows later.
    assert row.terminated.tolist() == [False, True]
    assert row.episodes.tolist() == [(1, 3, 6.0)]
    row = group.step(STAY)
    assert row.episodes.tolist() == [(0, 3, 6.0)]
    assert row.observations.tolist() == [[2, 3], [1, 0]]


def test_discrete_observations_out_of_range_are_a_fault(clock: Clock) -> None:
    def make() -> Script:
        env = Script(0, lambda env, what: env.steps if what in ("step", "reset") else None)
        env.observation_space = Discrete(2, start=-1)
        return env

    tracker = make_tracker(1, clock)
    group = SyncGroup(make, 1, tracker)
    assert group.reset(SEEDS[:1]).observations.tolist() == [1]
    row = group.step(STAY[:1])
    assert (row.observations.tolist(), row.first.tolist()) == ([1], [True])
    (fault,) = tracker.take_faults()
    assert fault.kind == "out of range"


def test_what_cannot_be_made_again_stays_down_for_a_while(clock: Clock) -> None:
    def fails(env: Script, what: str) -> None:
        if (env.number >= 2 and what == "make") or (env.number == 0 and what == "step"):
            fall()

    tracker = make_tracker(2, clock)
    factory = Factory(fails)
    group = SyncGroup(factory, 2, tracker)
    group.reset(SEEDS)
    row = group.step(STAY)
    assert row.down is not None
    assert row.down.tolist() == [True, False]
    assert [fault.restarts for fault in tracker.take_faults()] == [0, 1]


def test_the_first_must_be_made_others_may_come_later(clock: Clock) -> None:
    calls: list[int] = []

    def make(failing: int) -> Script:
        calls.append(len(calls))
        if len(calls) == failing:
            raise InvalidEnvironment("no level file")
        return Script(len(calls), lambda env, what: None)

    group = SyncGroup(lambda: make(2), 2, make_tracker(2, clock))
    row = group.reset(SEEDS)
    assert row.restarted is not None
    assert row.restarted.tolist() == [False, True]


def test_what_is_stepped_is_written_down(clock: Clock) -> None:
    supervision = Supervision()
    seen = []

    def fails(env: Script, what: str) -> None:
        seen.append((what, env.number, *supervision.shared.running))

    group = SyncGroup(Factory(fails), 2, make_tracker(2, clock, supervision=supervision))
    group.reset(SEEDS)
    group.step(STAY)
    assert len(seen) == 8
    assert all(entry[1:] == (entry[1], 0, entry[1]) for entry in seen)
    assert supervision.shared.running[0] == NOBODY


def test_other_spaces_are_a_fault(clock: Clock) -> None:
    def fails(env: Script, what: str) -> None:
        if what == "make" and env.number == 1:
            env.action_space = Discrete(9)

    tracker = make_tracker(2, clock)
    group = SyncGroup(Factory(fails), 2, tracker)
    group.reset(SEEDS)
    (fault,) = tracker.take_faults()
    assert "has the spaces" in fault.traceback
    with pytest.raises(InvalidEnvironment, match="has the spaces"):
        SyncGroup(Factory(fails), 2)


def test_without_a_tracker_the_caller_gets_what_is_raised() -> None:
    group = SyncGroup(Factory(at(1, "step", fall)), 2)
    assert group.reset(SEEDS).observations.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(RuntimeError, match="it fell over"):
        group.step(STAY)


def test_one_object_cannot_be_several_environments(clock: Clock) -> None:
    only = Script(0, lambda env, what: None)
    for tracker in (None, make_tracker(2, clock)):
        with pytest.raises(SameInstance, match="type Script is one and the same object"):
            SyncGroup(lambda: TimeLimit(only, 5), 2, tracker)
    # Nor can it be one in another group.
    instances = Instances()
    group = SyncGroup(lambda: only, 1, None, None, instances)
    with pytest.raises(SameInstance):
        SyncGroup(lambda: only, 1, make_tracker(1, clock), SPECS, instances)
    group.close()
    SyncGroup(lambda: only, 1, None, None, instances)


def test_an_object_may_be_the_same_environment_again_after_a_fault(clock: Clock) -> None:
    only = Script(0, lambda env, what: fall() if what == "step" and env.steps_in_all == 1 else None)
    tracker = make_tracker(1, clock)
    group = SyncGroup(lambda: only, 1, tracker)
    group.reset(SEEDS[:1])
    assert group.step(STAY[:1]).restarted is not None
    assert len(tracker.take_faults()) == 1
    assert group.step(STAY[:1]).restarted is None


def test_what_does_not_close_is_left_behind(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "_PATIENCE_S", 0.01)
    never = threading.Event()

    def fails(env: Script, what: str) -> None:
        if env.number == 0 and what == "step":
            fall()
        if env.number == 0 and what == "close":
            never.wait()

    factory = Factory(fails)
    tracker = make_tracker(2, clock)
    group = SyncGroup(factory, 2, tracker)
    group.reset(SEEDS)
    row = group.step(STAY)
    never.set()
    assert row.observations.tolist() == [[2, 0], [1, 1]]
    (fault,) = tracker.take_faults()
    assert "was left behind" in fault.traceback
    assert fault.traceback.endswith("RuntimeError: it fell over\n")


def test_all_are_closed_whatever_one_of_them_raises() -> None:
    factory = Factory(at(0, "close", fall))
    group = SyncGroup(factory, 2)
    with pytest.raises(RuntimeError, match="it fell over"):
        group.close()
    assert [env.closed for env in factory.made] == [True, True]
