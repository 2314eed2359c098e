from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from envservers.environments.group import InvalidEnvironment
from envservers.environments.sync_group import SinglesGroup
from envservers.supervision.recovery import FORGIVEN_AFTER_STEPS
from envservers.supervision.shared_state import NOBODY, Supervision
from seed.wire.spaces import SpaceSpec
from tests.envservers.faulty_envs import Clock, Factory, Script, make_guard

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


def leave() -> None:
    raise SystemExit(3)


def panic() -> None:
    """Raises what is no Exception, as asyncio and packages written in Rust do."""
    raise asyncio.CancelledError


def test_one_that_raises_is_made_anew_and_the_others_go_on(clock: Clock) -> None:
    factory = Factory(at(0, "step", fall))
    guard = make_guard(2, clock)
    group = SinglesGroup(factory, 2, guard)
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
    (fault,) = guard.take_faults()
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


@pytest.mark.parametrize(
    ("what", "act", "kind"),
    [("reset", fall, "raised"), ("step", leave, "raised"), ("close", fall, None),
     ("step", panic, "raised"), ("reset", panic, "raised"), ("close", panic, None),
     ("reward", lambda: float("nan"), "not finite"), ("reward", lambda: 1e39, "not finite"),
     ("reward", lambda: "much", "raised"), ("step", lambda: [np.inf, 0], "not finite"),
     ("step", lambda: [1, 2, 3], "unfit"),
     ("reset", lambda: [[0.0, 1.0]], "unfit"), ("step", lambda: None, None)],
)  # fmt: skip
def test_whatever_cannot_be_sent_is_a_fault(
    clock: Clock, what: str, act: Callable[[], Any], kind: str | None
) -> None:
    guard = make_guard(2, clock)
    group = SinglesGroup(Factory(at(0, what, act)), 2, guard)
    rows = [group.reset(SEEDS), *(group.step(STAY) for _ in range(3))]
    for row in rows:
        assert np.isfinite(row.observations).all()
        assert np.isfinite(row.rewards).all()
        assert row.observations[1, 0] == 1
    assert [fault.kind for fault in guard.take_faults()] == ([] if kind is None else [kind])


def test_discrete_observations_out_of_range_are_a_fault(clock: Clock) -> None:
    def make() -> Script:
        env = Script(0, lambda env, what: env.steps if what in ("step", "reset") else None)
        env.observation_space = Discrete(2, start=-1)
        return env

    guard = make_guard(1, clock)
    group = SinglesGroup(make, 1, guard)
    assert group.reset(SEEDS[:1]).observations.tolist() == [1]
    row = group.step(STAY[:1])
    assert (row.observations.tolist(), row.first.tolist()) == ([1], [True])
    (fault,) = guard.take_faults()
    assert fault.kind == "out of range"


def test_one_that_always_fails_is_started_later_and_later_then_never(clock: Clock) -> None:
    factory = Factory(lambda env, what: fall() if what == "step" and env.number != 1 else None)
    guard = make_guard(2, clock)
    group = SinglesGroup(factory, 2, guard)
    group.reset(SEEDS)
    starts = []
    for _ in range(200):
        clock.now_s += 0.1
        row = group.step(STAY)
        if row.down is not None and row.down.any():
            assert row.down.tolist() == [True, False]
            assert row.observations[0].tolist() == [0, 0]
            assert (row.rewards[0], row.first[0], row.terminated[0]) == (0, True, False)
        if row.restarted is not None and row.restarted.any():
            starts.append(clock.now_s - 1000)
    faults = guard.take_faults()
    assert [fault.restarts for fault in faults] == [0, 1, 2, 3, 4]
    assert [fault.quarantined for fault in faults] == [False] * 4 + [True]
    assert len(starts) == 4
    gaps = np.diff(starts)
    # A step lies between a start and the fault, another one may before the start.
    assert (gaps >= [0.5, 1, 2]).all()
    assert (gaps <= [1.25, 2.25, 4.25]).all()
    assert [fault.repeated for fault in guard.lasting_faults()] == [True]
    assert guard.ready_s == 0
    assert factory.made[1].steps_in_all > 100


def test_a_group_that_is_all_down_is_ready_when_the_first_may_start(clock: Clock) -> None:
    guard = make_guard(2, clock)
    group = SinglesGroup(Factory(lambda env, what: fall() if what == "step" else None), 2, guard)
    group.reset(SEEDS)
    group.step(STAY)
    assert guard.ready_s == 0
    row = group.step(STAY)
    assert row.down is not None
    assert row.down.all()
    assert clock.now_s + 0.5 <= guard.ready_s <= clock.now_s + 1
    while not guard.is_quarantined:
        clock.now_s = guard.ready_s
        group.step(STAY)
    assert len(guard.take_faults()) == 10
    # A new session finds them as they are.
    assert group.reset(SEEDS).down is not None


def test_what_cannot_be_made_again_stays_down_for_a_while(clock: Clock) -> None:
    def fails(env: Script, what: str) -> None:
        if (env.number >= 2 and what == "make") or (env.number == 0 and what == "step"):
            fall()

    guard = make_guard(2, clock)
    factory = Factory(fails)
    group = SinglesGroup(factory, 2, guard)
    group.reset(SEEDS)
    row = group.step(STAY)
    assert row.down is not None
    assert row.down.tolist() == [True, False]
    assert [fault.restarts for fault in guard.take_faults()] == [0, 1]


def test_the_first_must_be_made_others_may_come_later(clock: Clock) -> None:
    calls: list[int] = []

    def make(failing: int) -> Script:
        calls.append(len(calls))
        if len(calls) == failing:
            raise InvalidEnvironment("no level file")
        return Script(len(calls), lambda env, what: None)

    with pytest.raises(InvalidEnvironment, match="no level file"):
        SinglesGroup(lambda: make(1), 2, make_guard(2, clock))
    calls.clear()
    group = SinglesGroup(lambda: make(2), 2, make_guard(2, clock))
    row = group.reset(SEEDS)
    assert row.restarted is not None
    assert row.restarted.tolist() == [False, True]


def test_none_must_be_made_where_one_has_been_before(clock: Clock) -> None:
    refused = iter([True, True, True])

    def make() -> Script:
        if next(refused, False):
            raise InvalidEnvironment("no display")
        return Script(1, lambda env, what: None)

    supervision = Supervision()
    supervision.shared.was_made = True
    guard = make_guard(2, clock, supervision=supervision)
    group = SinglesGroup(make, 2, guard, SPECS)
    row = group.reset(SEEDS)
    assert row.observations.tolist() == [[0, 0], [1, 0]]
    assert row.down is not None
    assert row.down.tolist() == [True, False]
    assert [fault.index for fault in guard.take_faults()] == [0, 1, 0]
    clock.now_s += 1
    row = group.step(STAY)
    assert row.down is not None
    assert not row.down.any()


def test_other_spaces_than_promised_are_a_fault(clock: Clock) -> None:
    refused = iter([True])

    def make() -> Script:
        if next(refused, False):
            raise InvalidEnvironment("no display")
        env = Script(1, lambda env, what: None)
        env.action_space = Discrete(9)
        return env

    supervision = Supervision()
    supervision.shared.was_made = True
    guard = make_guard(1, clock, supervision=supervision)
    group = SinglesGroup(make, 1, guard, SPECS)
    row = group.reset(SEEDS[:1])
    assert row.down is not None
    assert row.down.all()
    assert (group.observation, group.action) == SPECS
    assert "it has other spaces" in guard.take_faults()[-1].traceback


def test_faults_are_forgiven_after_many_steps(clock: Clock) -> None:
    supervision = Supervision()
    guard = make_guard(2, clock, supervision=supervision)
    group = SinglesGroup(Factory(at(0, "step", fall)), 2, guard)
    group.reset(SEEDS)
    group.step(STAY)
    assert supervision.shared.faults[0] == 1
    for _ in range(FORGIVEN_AFTER_STEPS - 2):
        guard.end_step()
    assert supervision.shared.faults[0] == 1
    group.step(STAY)
    assert supervision.shared.faults[0] == 0


def test_what_is_stepped_is_noted(clock: Clock) -> None:
    supervision = Supervision()
    noted = []

    def fails(env: Script, what: str) -> None:
        noted.append((what, env.number, *supervision.shared.running))

    group = SinglesGroup(Factory(fails), 2, make_guard(2, clock, supervision=supervision))
    group.reset(SEEDS)
    group.step(STAY)
    assert len(noted) == 8
    assert all(entry[1:] == (entry[1], 0, entry[1]) for entry in noted)
    assert supervision.shared.running[0] == NOBODY


def test_a_quarantine_outlives_the_process(clock: Clock) -> None:
    supervision = Supervision()
    supervision.shared.faults[0] = supervision.shared.faults[1] = 5
    factory = Factory()
    guard = make_guard(2, clock, supervision=supervision)
    group = SinglesGroup(factory, 2, guard, SPECS)
    assert guard.is_quarantined
    for row in (group.reset(SEEDS), group.step(STAY)):
        assert row.down is not None
        assert row.down.all()
        assert row.observations.tolist() == [[0, 0], [0, 0]]
    assert not factory.made
    supervision.shared.faults[1] = 4
    group = SinglesGroup(factory, 2, make_guard(2, clock, supervision=supervision), SPECS)
    row = group.reset(SEEDS)
    assert row.down is not None
    assert row.down.tolist() == [True, False]
    assert len(factory.made) == 1


def test_other_spaces_are_a_fault(clock: Clock) -> None:
    def fails(env: Script, what: str) -> None:
        if what == "make" and env.number == 1:
            env.action_space = Discrete(9)

    guard = make_guard(2, clock)
    group = SinglesGroup(Factory(fails), 2, guard)
    group.reset(SEEDS)
    (fault,) = guard.take_faults()
    assert "has the spaces" in fault.traceback
    with pytest.raises(InvalidEnvironment, match="has the spaces"):
        SinglesGroup(Factory(fails), 2)


def test_without_books_the_caller_gets_what_is_raised() -> None:
    group = SinglesGroup(Factory(at(1, "step", fall)), 2)
    assert group.reset(SEEDS).observations.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(RuntimeError, match="it fell over"):
        group.step(STAY)
