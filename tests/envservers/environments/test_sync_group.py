"""What is of single environments alone; `test_restarting_group.py` has what all groups do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.wrappers import TimeLimit

from envservers.environments.group import InvalidEnvironment
from envservers.environments.instances import Instances, SameInstance
from envservers.environments.sync_group import SyncGroup
from envservers.supervision.shared_state import NOBODY, Supervision
from seed.wire.spaces import SpaceSpec
from tests.envservers.faulty_envs import Clock, Factory, Script, make_tracker

STAY = np.zeros(2, np.int64)
SEEDS = np.array([7, 8])
SPECS = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)


def at(number: int, what: str) -> Callable[[Script, str], Any]:
    """What `Script` calls: the environment with this number falls over on every such occasion."""

    def fails(env: Script, now: str) -> None:
        if (env.number, now) == (number, what):
            raise RuntimeError("it fell over")

    return fails


def test_the_others_go_on_where_one_is_made_anew() -> None:
    group = SyncGroup(Factory(at(0, "step")), 2, make_tracker(2, Clock()))
    row = group.reset(SEEDS)
    assert row.first.all()
    rows = [group.step(STAY) for _ in range(4)]
    assert [row.observations.tolist() for row in rows] == [
        [[2, 0], [1, 1]], [[2, 1], [1, 2]], [[2, 2], [1, 3]], [[2, 3], [1, 0]]
    ]  # fmt: skip
    assert rows[0].rewards.tolist() == [0, 1]
    assert rows[0].down is not None
    assert not rows[0].down.any()
    assert rows[0].restarted is not None
    assert rows[0].restarted.tolist() == [True, False]
    # The episode of the environment made anew began two rows later.
    assert rows[2].terminated.tolist() == [False, True]
    assert [row.episodes.tolist() for row in rows] == [[], [], [(1, 3, 6.0)], [(0, 3, 6.0)]]


def test_discrete_observations_out_of_range_are_a_fault() -> None:
    def make() -> Script:
        env = Script(0, lambda env, what: env.steps if what in ("step", "reset") else None)
        env.observation_space = Discrete(2, start=-1)
        return env

    tracker = make_tracker(1, Clock())
    group = SyncGroup(make, 1, tracker)
    assert group.reset(SEEDS[:1]).observations.tolist() == [1]
    row = group.step(STAY[:1])
    assert (row.observations.tolist(), row.first.tolist()) == ([1], [True])
    (fault,) = tracker.take_faults()
    assert fault.kind == "out of range"


def test_the_first_must_be_made_others_may_come_later() -> None:
    refused = iter([False, True])

    def fails(env: Script, what: str) -> None:
        if what == "make" and next(refused, False):
            raise InvalidEnvironment("no level file")

    row = SyncGroup(Factory(fails), 2, make_tracker(2, Clock())).reset(SEEDS)
    assert row.restarted is not None
    assert row.restarted.tolist() == [False, True]


def test_what_is_stepped_is_written_down() -> None:
    supervision = Supervision()
    seen = []

    def fails(env: Script, what: str) -> None:
        seen.append((what, env.number, *supervision.shared.running))

    group = SyncGroup(Factory(fails), 2, make_tracker(2, Clock(), supervision=supervision))
    group.reset(SEEDS)
    group.step(STAY)
    assert len(seen) == 8
    assert all(entry[1:] == (entry[1], 0, entry[1]) for entry in seen)
    assert supervision.shared.running[0] == NOBODY


def test_other_spaces_are_a_fault() -> None:
    def fails(env: Script, what: str) -> None:
        if what == "make" and env.number == 1:
            env.action_space = Discrete(9)

    tracker = make_tracker(2, Clock())
    SyncGroup(Factory(fails), 2, tracker).reset(SEEDS)
    (fault,) = tracker.take_faults()
    assert "has the spaces" in fault.traceback
    with pytest.raises(InvalidEnvironment, match="has the spaces"):
        SyncGroup(Factory(fails), 2)


def test_without_a_tracker_the_caller_gets_what_is_raised() -> None:
    group = SyncGroup(Factory(at(1, "step")), 2)
    assert group.reset(SEEDS).observations.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(RuntimeError, match="it fell over"):
        group.step(STAY)
    # All are closed, whatever one of them raises.
    factory = Factory(at(0, "close"))
    with pytest.raises(RuntimeError, match="it fell over"):
        SyncGroup(factory, 2).close()
    assert [env.closed for env in factory.made] == [True, True]


def test_one_object_cannot_be_several_environments() -> None:
    only = Factory()()
    for tracker in (None, make_tracker(2, Clock())):
        with pytest.raises(SameInstance, match="type Script is one and the same object"):
            SyncGroup(lambda: TimeLimit(only, 5), 2, tracker)
    # Nor can it be one in another group.
    instances = Instances()
    group = SyncGroup(lambda: only, 1, None, None, instances)
    with pytest.raises(SameInstance):
        SyncGroup(lambda: only, 1, make_tracker(1, Clock()), SPECS, instances)
    group.close()
    SyncGroup(lambda: only, 1, None, None, instances).close()
    # Of several, none is taken where two are one.
    other = Factory()()
    with pytest.raises(SameInstance):
        instances.take(other, only, only)
    instances.take(only, other)


def test_an_object_may_be_the_same_environment_again_after_a_fault() -> None:
    def fails(env: Script, what: str) -> None:
        if what == "step" and env.steps_in_all == 1:
            raise RuntimeError("it fell over")

    only = Factory(fails)()
    tracker = make_tracker(1, Clock())
    group = SyncGroup(lambda: only, 1, tracker)
    group.reset(SEEDS[:1])
    assert group.step(STAY[:1]).restarted is not None
    assert len(tracker.take_faults()) == 1
    assert group.step(STAY[:1]).restarted is None
