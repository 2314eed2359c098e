"""Whatever an environment returns or raises, each kind of group reports it and goes on."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest

from envservers.environments import workers
from envservers.environments.factory import make_group, make_restarting_group
from envservers.environments.fault_tracker import FaultTracker
from envservers.environments.group import Group, GroupRow, InvalidEnvironment
from envservers.environments.instances import Instances
from envservers.environments.workers import how_workers_ended, workers_of
from seed.wire.spaces import SpaceSpec
from tests.envservers import odd_envs
from tests.envservers.faulty_envs import Clock, make_tracker

# How Gymnasium says what another process has raised, before it raises the same here.
pytestmark = pytest.mark.filterwarnings("ignore:.*(ERROR|Traceback)")
SPECS = SpaceSpec("float32", (2,)), SpaceSpec("float32", (1,))
SEEDS, STAY = np.arange(2), np.zeros((2, 1), np.float32)
KINDS = {
    "sync": ("Odd", "sync"), "async": ("Odd", "async"), "vector": ("make_vector", "sync"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def first() -> None:
    odd_envs.begin()


def table(kind: str, name: str = "", **kwargs: Any) -> dict[str, Any]:
    own_name, vectorization = KINDS[kind]
    return {
        "kind": "function", "id": f"tests.envservers.odd_envs:{name or own_name}",
        "kwargs": kwargs, "vectorization": vectorization,
    }  # fmt: skip


def make(kind: str, how: str) -> tuple[Group, FaultTracker]:
    def new_tracker(num_units: int, whole: bool) -> FaultTracker:
        return make_tracker(num_units, Clock(), whole=whole)

    return make_restarting_group(table(kind, how=how), 2, new_tracker, SPECS, Instances())


def play(group: Group, actions: Any, num_steps: int) -> list[GroupRow]:
    return [group.reset(SEEDS[: group.num_envs]), *(group.step(actions) for _ in range(num_steps))]


# Of which group, what is odd, the kind of the fault, and what its traceback says.
FAULTS = [
    *((kind, *row) for kind in ("sync", "vector") for row in (
        ("four values", "unfit", "step returned 4 values, as the old gym did, expected"),
        ("no tuple", "unfit", "step returned a value of type ndarray, expected"),
        ("no pair", "unfit", "reset returned a value of type ndarray, expected"),
        ("three values", "unfit", "reset returned 3 values, expected"),
        ("complex", "unfit", "complex128, expected float64"),
        ("fall", "raised", "in fall\n"),
        ("fall", "raised", "ConnectionError: the simulator is gone\n"),
        ("fallen", "raised", "ConnectionError: the simulator is gone\n"),
        ("leave", "raised", "SystemExit: no licence\n"),
        ("panic", "raised", "CancelledError: panic\n"),
        ("panicking", "raised", "CancelledError: panic\n"),
    )),
    ("sync", "long", "unfit", "shape (3,), expected (2,)"),
    ("vector", "long", "unfit", "shape (2, 3), expected (2, 2)"),
    ("sync", "long reset", "unfit", "shape (3,), expected (2,)"),
    ("vector", "long reset", "unfit", "shape (2, 3), expected (2, 2)"),
    ("sync", "nested", "unfit", "shape (1, 2), expected (2,)"),
    ("vector", "nested", "unfit", "shape (2, 1, 2), expected (2, 2)"),
    ("sync", "infinite", "not finite", "returned an observation that is not finite"),
    ("vector", "infinite", "not finite", "observations of environments [0, 1] are not finite"),
    ("sync", "nan reward", "not finite", "the reward nan that is not finite"),
    ("vector", "nan reward", "not finite", "a reward that is not finite"),
    ("sync", "large reward", "not finite", "the reward 1e+39 that is not finite"),
    ("vector", "large reward", "not finite", "a reward that is not finite"),
    ("sync", "text reward", "raised", "could not convert string to float"),
    ("vector", "text reward", "unfit", "rewards of dtype <U4"),
    ("vector", "nested reward", "unfit", "rewards of shape (2, 1)"),
    ("sync", "half over", "unfit", "terminated = 0.5, expected True or False"),
    ("vector", "half over", "unfit", "terminated of dtype float64 with 0.5"),
    ("sync", "text over", "unfit", "truncated = 'no', expected True or False"),
    ("vector", "text over", "unfit", "truncated of dtype <U2"),
    ("vector", "no reset", "unfit", "an episode ended again in the step after its end"),
    ("vector", "early reset", "unfit", "hold 'final_obs': the vector class resets in that step"),
]  # fmt: skip


@pytest.mark.parametrize(("group_kind", "how", "kind", "text"), FAULTS)
def test_what_cannot_be_sent_is_a_fault(group_kind: str, how: str, kind: str, text: str) -> None:
    group, tracker = make(group_kind, how)
    rows = play(group, STAY, 4)
    faults = tracker.take_faults()
    index = 1 if group_kind == "sync" else None
    assert {(fault.kind, fault.index) for fault in faults} == {(kind, index)}
    assert text in faults[0].traceback
    for row in rows:
        assert np.isfinite(row.observations).all()
        assert np.isfinite(row.rewards).all()
    if group_kind == "sync":
        # The other one goes on, and the odd one has begun anew once.
        assert [row.observations[0, 0] for row in rows] == [0, 1, 2, 3, 0]
        assert sum(row.restarted is not None for row in rows) == 1
    group.close()


# The traceback of the other process is that of the fault. The first one's close() hangs.
@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [("fall", "raised", "in fall\n"), ("leave", "raised", "SystemExit: no licence\n"),
     ("exit", "raised", "RuntimeError: the process of environment 1 ended with exit code 7\n"),
     ("half over", "unfit", "the environment returned terminated = 0.5, expected True or False")],
)  # fmt: skip
def test_what_breaks_in_a_process_of_its_own_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, how: str, kind: str, text: str
) -> None:
    monkeypatch.setattr(workers, "_PATIENCE_S", 0.2)
    before = set(multiprocessing.active_children())
    group, tracker = make("async", how)
    rows = play(group, STAY, 3)
    (fault,) = tracker.take_faults()
    assert (fault.index, fault.kind) == (None, kind)
    assert text in fault.traceback
    assert [row.restarted is not None for row in rows] == [False, False, True, False]
    group.close()
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_environments_may_differ_in_bounds_and_infos(kind: str) -> None:
    group = make_group(table(kind), 2)
    assert (group.observation, group.action) == SPECS
    rows = play(group, np.full((2, 1), 0.5, np.float32), 4)
    # The wire's 0.5 is half of what each environment's own bounds allow.
    assert sorted(rows[1].observations.tolist()) == [[1, 0.5], [1, 1]]
    assert rows[1].observations.dtype == np.float32
    assert [row.truncated.tolist() for row in rows[2:]] == [[False] * 2, [True] * 2, [False] * 2]
    assert not any(row.terminated.any() for row in rows)
    assert rows[3].episodes.tolist() == [(0, 3, 3.0), (1, 3, 3.0)]
    assert rows[4].first.all()
    assert sorted(rows[4].observations.tolist()) == [[0, 0.5], [0, 1]]
    group.close()


def test_the_first_row_has_no_reward_whatever_the_environment_says() -> None:
    rows = play(make_group(table("vector", how="generous"), 1), STAY[:1], 4)
    assert [float(row.rewards[0]) for row in rows] == [0, 2, 2, 2, 0]
    assert rows[3].episodes.tolist() == [(0, 3, 6.0)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_discrete_values_count_from_zero(kind: str) -> None:
    group = make_group(table(kind, "Discreet"), 2)
    assert group.observation == SpaceSpec("int64", (), 4)
    rows = play(group, np.array([0, 1]), 1)
    assert [row.observations.tolist() for row in rows] == [[0, 0], [1, 1]]
    group.close()


def test_one_that_comes_back_twice_from_a_step_goes_on_once() -> None:
    group = make_group(table("async", how="fork"), 2)
    rows = play(group, STAY, 3)
    assert [row.observations[1, 0] for row in rows] == [0, 1, 2, 3]
    group.close()


def test_what_cannot_be_made_in_a_process_is_refused_with_its_reason() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(InvalidEnvironment, match=r"made: OSError: the port is taken \(in a "):
        make_group(table("async", how="make"), 2)
    assert set(multiprocessing.active_children()) <= before


def test_other_objects_have_no_processes() -> None:
    assert workers_of(object()) == []
    assert how_workers_ended(object()) == ""
