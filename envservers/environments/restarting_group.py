"""A group that is one object, an emulator or a vector environment, and is made anew as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from envservers.environments.closing import close_failed
from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS, FaultTracker
from envservers.environments.group import (
    Array,
    Group,
    GroupRow,
    InvalidEnvironment,
    InvalidRow,
    check_row,
    restart_seeds,
)
from seed.wire.messages import EPISODE_DTYPE
from seed.wire.spaces import SpaceSpec


class RestartingGroup:
    """A group that outlives the object that steps its environments."""

    def __init__(
        self,
        make: Callable[[], Group],
        num_envs: int,
        tracker: FaultTracker,
        expected: tuple[SpaceSpec, SpaceSpec],
    ) -> None:
        """Makes the group, unless it is in quarantine already.

        Args:
            make: Makes the group, at first and after a fault.
            num_envs: Number of environments.
            tracker: Of its faults, with one unit.
            expected: Specs of observations and actions; its own ones once it has been made.

        Raises:
            InvalidEnvironment: where it cannot be made and never was.
        """
        self.num_envs, self.tracker = num_envs, tracker
        self.observation, self.action = expected
        self._make = make
        self._group: Group | None = None
        self._seeds = np.zeros(num_envs, np.int64)
        self._restarts = 0
        if tracker.startable():
            try:
                group = self._make_group()
                self.observation, self.action = group.observation, group.action
            except ENVIRONMENT_ERRORS as error:
                if isinstance(error, InvalidEnvironment) and not tracker.was_made:
                    raise
                self._fail(error)

    def reset(self, seeds: Array) -> GroupRow:
        """Starts new episodes, as far as the group runs."""
        self._seeds = seeds
        return self._advance(lambda group: group.reset(seeds))

    def step(self, actions: Array) -> GroupRow:
        """Steps the group, or starts it anew where that is due."""
        return self._advance(lambda group: group.step(actions))

    def close(self) -> None:
        """Closes the group, if it runs."""
        group, self._group = self._group, None
        if group is not None:
            group.close()

    def _advance(self, advance: Callable[[Group], GroupRow]) -> GroupRow:
        row: GroupRow | None = None
        if self._group is not None:
            try:
                self.tracker.enter(0)
                row = advance(self._group)
                check_row(row, self.observation)
            except ENVIRONMENT_ERRORS as error:
                row = None
                self._fail(error)
        if row is None:
            row = self._restart() if self.tracker.startable() else self._down_row()
        self.tracker.end_step()
        return row

    def _restart(self) -> GroupRow:
        """The first row after a fault; one that stands for nothing where it fails again."""
        self._restarts += 1
        try:
            group = self._group or self._make_group()
            if (group.observation, group.action) != (self.observation, self.action):
                raise InvalidRow("unfit", f"made anew, it has other spaces: {group.observation}")
            row = group.reset(restart_seeds(self._seeds, self._restarts))
            check_row(row, self.observation)
        except ENVIRONMENT_ERRORS as error:
            self._fail(error)
            return self._down_row()
        return replace(row, restarted=np.ones(self.num_envs, np.bool_))

    def _make_group(self) -> Group:
        self.tracker.enter(0)
        self._group = self._make()
        self.tracker.start(0)
        return self._group

    def _fail(self, error: BaseException) -> None:
        group, self._group = self._group, None
        self.tracker.enter(0)
        self.tracker.fail(0, error, close_failed(group.close) if group is not None else "")

    def _down_row(self) -> GroupRow:
        n = self.num_envs
        yes, no = np.ones(n, np.bool_), np.zeros(n, np.bool_)
        observations = np.zeros((n, *self.observation.shape), self.observation.dtype)
        none = np.zeros(0, EPISODE_DTYPE)
        return GroupRow(observations, np.zeros(n, np.float32), no, no, yes, none, down=yes)
