"""Single environments of other forms: what they return, which objects they are, how they close."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import TimeLimit

from envservers.environments import closing
from envservers.environments.instances import Instances, SameInstance
from envservers.environments.sync_group import SinglesGroup
from tests.envservers.environments.test_sync_group import SEEDS, SPECS, STAY, at, fall
from tests.envservers.faulty_envs import Clock, Factory, Script, make_guard


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("name", "result", "reason"),
    [("step", (np.zeros(2), 1.0, False, {}), "step returned 4 values, as the old gym did"),
     ("step", (np.zeros(2), 1.0, "no", False, {}), "terminated = 'no', expected True or False"),
     ("reset", np.zeros(2), "reset returned a value of type ndarray")],
)  # fmt: skip
def test_what_is_not_gymnasiums_interface_is_a_fault(
    clock: Clock, name: str, result: Any, reason: str
) -> None:
    factory = Factory(lambda env, what: None)
    guard = make_guard(1, clock)
    group = SinglesGroup(factory, 1, guard)
    setattr(factory.made[0], name, lambda *arguments, **options: result)
    group.reset(SEEDS[:1])
    row = group.step(STAY[:1])
    assert row.observations[0, 0] == 1
    (fault,) = guard.take_faults()
    assert fault.kind == "unfit"
    assert reason in fault.traceback


def test_values_that_the_declared_dtype_cannot_hold_are_a_fault(clock: Clock) -> None:
    def fails(env: Script, what: str) -> Any:
        if what == "make":
            env.observation_space = Box(0, 255, (2,), np.uint8)
        return [env.steps, 256] if what == "step" and env.number == 0 else None

    guard = make_guard(2, clock)
    group = SinglesGroup(Factory(fails), 2, guard)
    group.reset(SEEDS)
    row = group.step(STAY)
    assert row.observations.tolist() == [[2, 0], [1, 1]]
    (fault,) = guard.take_faults()
    assert fault.kind == "unfit"
    assert "dtype int64 with 256 in it" in fault.traceback
    assert "dtype uint8" in fault.traceback


def test_one_object_cannot_be_several_environments(clock: Clock) -> None:
    only = Script(0, lambda env, what: None)
    for guard in (None, make_guard(2, clock)):
        with pytest.raises(SameInstance, match="type Script is one and the same object"):
            SinglesGroup(lambda: TimeLimit(only, 5), 2, guard)
    # Nor can it be one in another group.
    instances = Instances()
    group = SinglesGroup(lambda: only, 1, None, None, instances)
    with pytest.raises(SameInstance):
        SinglesGroup(lambda: only, 1, make_guard(1, clock), SPECS, instances)
    group.close()
    SinglesGroup(lambda: only, 1, None, None, instances)


def test_an_object_may_be_the_same_environment_again_after_a_fault(clock: Clock) -> None:
    only = Script(0, lambda env, what: fall() if what == "step" and env.steps_in_all == 1 else None)
    guard = make_guard(1, clock)
    group = SinglesGroup(lambda: only, 1, guard)
    group.reset(SEEDS[:1])
    assert group.step(STAY[:1]).restarted is not None
    assert len(guard.take_faults()) == 1
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
    guard = make_guard(2, clock)
    group = SinglesGroup(factory, 2, guard)
    group.reset(SEEDS)
    row = group.step(STAY)
    never.set()
    assert row.observations.tolist() == [[2, 0], [1, 1]]
    (fault,) = guard.take_faults()
    assert "was left behind" in fault.traceback
    assert fault.traceback.endswith("RuntimeError: it fell over\n")


def test_all_are_closed_whatever_one_of_them_raises() -> None:
    factory = Factory(at(0, "close", fall))
    group = SinglesGroup(factory, 2)
    with pytest.raises(RuntimeError, match="it fell over"):
        group.close()
    assert [env.closed for env in factory.made] == [True, True]


def test_environments_may_differ_in_bounds_and_in_where_they_count_from(clock: Clock) -> None:
    """Each gets actions, and its observations are read, by its own spaces."""
    heard: list[Any] = []

    def fails(env: Script, what: str) -> Any:
        if what == "make":
            env.observation_space = Discrete(9, start=env.number)
            env.action_space = Box(-1 - env.number, 1 + env.number, (1,), np.float32)
            env.step = partial(hear, env)  # type: ignore[method-assign]
        return env.number + 3 if what in ("step", "reset") else None

    def hear(env: Script, action: Any) -> Any:
        heard.append(action.tolist())
        return Script.step(env, action)

    guard = make_guard(3, clock)
    group = SinglesGroup(Factory(fails), 3, guard)
    assert group.reset(np.arange(3)).observations.tolist() == [3, 3, 3]
    row = group.step(np.full((3, 1), 0.5, np.float32))
    assert row.observations.tolist() == [3, 3, 3]
    assert heard == [[0.5], [1.0], [1.5]]
    assert not guard.take_faults()
