from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from envservers.environments.group import Array, GroupRow, InvalidEnvironment
from envservers.environments.restarting_group import RestartingGroup
from envservers.supervision.shared_state import Supervision
from seed.wire.messages import EPISODE_DTYPE
from seed.wire.spaces import SpaceSpec
from tests.envservers.faulty_envs import Clock, make_tracker

SPECS = SpaceSpec("float32", (2,)), SpaceSpec("int64", (), 2)
SEEDS, STAY = np.array([7, 8]), np.zeros(2, np.int64)


class Emulator:
    """A group that observes its own number and fails at its third row, if it is told to."""

    def __init__(self, number: int, fault: Callable[[GroupRow], GroupRow] | None) -> None:
        self.observation, self.action = SPECS
        self.num_envs, self.number, self.rows, self.fault = 2, number, 0, fault
        self.seeds: list[int] = []
        self.closed = False

    def reset(self, seeds: Array) -> GroupRow:
        self.seeds = seeds.tolist()
        return self.step(STAY)

    def step(self, actions: Array) -> GroupRow:
        first = np.full(2, self.rows == 0)
        self.rows += 1
        observations = np.full((2, 2), self.number, np.float32)
        row = GroupRow(
            observations, np.ones(2, np.float32), ~first & first, ~first & first, first,
            np.zeros(0, EPISODE_DTYPE),
        )  # fmt: skip
        return self.fault(row) if self.fault is not None and self.rows == 3 else row

    def close(self) -> None:
        self.closed = True
        raise RuntimeError("it does not even close")


def fall(row: GroupRow) -> GroupRow:
    raise RuntimeError("the emulator fell over")


def test_a_group_that_fails_is_made_anew_as_a_whole() -> None:
    made: list[Emulator] = []

    def make() -> Emulator:
        made.append(Emulator(len(made), fall if not made else None))
        return made[-1]

    tracker = make_tracker(1, Clock(), whole=True)
    group = RestartingGroup(make, 2, tracker, SPECS)
    rows = [group.reset(SEEDS), *(group.step(STAY) for _ in range(4))]
    assert [row.observations[0, 0] for row in rows] == [0, 0, 1, 1, 1]
    assert [row.restarted is not None for row in rows] == [False, False, True, False, False]
    assert rows[2].first.all()
    assert made[0].closed
    assert made[0].seeds == [7, 8]
    assert not set(made[1].seeds) & {7, 8}
    (fault,) = tracker.take_faults()
    assert (fault.group, fault.index, fault.kind) == (0, None, "raised")


def test_a_group_that_is_down_sends_rows_that_stand_for_nothing() -> None:
    clock = Clock()
    made: list[Emulator] = []

    def make() -> Emulator:
        if made:
            raise RuntimeError("no such device")
        made.append(Emulator(0, fall))
        return made[-1]

    tracker = make_tracker(1, clock, whole=True)
    group = RestartingGroup(make, 2, tracker, SPECS)
    group.reset(SEEDS)
    group.step(STAY)
    row = group.step(STAY)
    assert row.down is not None
    assert row.down.all()
    assert row.first.all()
    assert not row.observations.any()
    assert not row.rewards.any()
    while not tracker.is_quarantined:
        clock.now_s = tracker.ready_s
        row = group.step(STAY)
    assert len(tracker.take_faults()) == 5
    assert group.reset(SEEDS).down is not None


def test_a_group_that_cannot_be_made_at_first_is_refused() -> None:
    def make() -> Emulator:
        raise InvalidEnvironment("no such game")

    with pytest.raises(InvalidEnvironment):
        RestartingGroup(make, 2, make_tracker(1, Clock(), whole=True), SPECS)


def test_a_group_that_was_made_before_may_be_made_later() -> None:
    refused = iter([True, True])

    def make() -> Emulator:
        if next(refused, False):
            raise InvalidEnvironment("no licence is free")
        return Emulator(1, None)

    supervision, clock = Supervision(), Clock()
    supervision.shared.was_made = True
    tracker = make_tracker(1, clock, whole=True, supervision=supervision)
    group = RestartingGroup(make, 2, tracker, SPECS)
    row = group.reset(SEEDS)
    assert row.down is not None
    assert row.down.all()
    assert len(tracker.take_faults()) == 2
    clock.now_s += 1
    row = group.step(STAY)
    assert row.observations[0, 0] == 1
    assert row.restarted is not None


def test_a_group_in_quarantine_is_not_made() -> None:
    def make() -> Emulator:
        raise AssertionError("it would hang")

    supervision = Supervision()
    supervision.shared.faults[0] = 5
    tracker = make_tracker(1, Clock(), whole=True, supervision=supervision)
    group = RestartingGroup(make, 2, tracker, SPECS)
    assert group.reset(SEEDS).observations.shape == (2, 2)
    assert tracker.is_quarantined
