"""The groups of an environment server under one WELCOME: which row each has sent last."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from envservers.groups import Array, Group, GroupRow, InvalidEnvironment
from seed.wire import (
    FIRST,
    TERMINATED,
    TRUNCATED,
    Actions,
    Step,
    StepArrays,
    Welcome,
    WireError,
    check_actions,
    step_frames,
)


class Session:
    """Turns a WELCOME into first rows, and every ACTIONS message into the next row of its group.

    Raises:
        InvalidEnvironment: where the groups' specs differ from those that the learner announced.
        WireError: where the WELCOME does not count as many environments as there are.
    """

    def __init__(self, welcome: Welcome, groups: Sequence[Group]) -> None:
        num_envs = sum(group.num_envs for group in groups)
        if len(welcome.env_ids) != num_envs or (welcome.seeds < 0).any():
            raise WireError(
                f"WELCOME: expected {num_envs} environments and seeds from 0, got "
                f"{len(welcome.env_ids)} and {welcome.seeds.min(initial=0)}"
            )
        self.number = welcome.session
        self._seeds = welcome.seeds
        self._groups = groups
        self._seqs = [0] * len(groups)
        # A new number per environment: nothing that it sent before may be joined to what follows.
        run_ids = np.frombuffer(os.urandom(8 * num_envs), np.uint64)
        self._run_ids = self._split(run_ids)
        for what, ours, theirs in (
            ("observation", groups[0].observation, welcome.observation),
            ("action", groups[0].action, welcome.action),
        ):
            if ours != theirs:
                raise InvalidEnvironment(
                    f"the environment's {what} is {ours} here, the learner expects {theirs}: "
                    "install the same environment on both sides"
                )

    def first_steps(self) -> list[Step]:
        """Resets all environments with the learner's seeds; row 0 of every group."""
        seeds = self._split(self._seeds)
        return [
            self._step(index, group.reset(seeds[index])) for index, group in enumerate(self._groups)
        ]

    def advance(self, message: Actions) -> Step | None:
        """Steps the group that ACTIONS is for; None where nobody awaits the message.

        Raises:
            WireError: for actions that are no actions of this environment.
        """
        index = message.group
        if message.session != self.number or index >= len(self._groups):
            return None
        if message.seq != self._seqs[index]:
            return None
        group = self._groups[index]
        actions = check_actions(message, group.action, group.num_envs)
        self._seqs[index] += 1
        return self._step(index, group.step(actions))

    def _split(self, per_environment: Array) -> list[Array]:
        ends = np.cumsum([group.num_envs for group in self._groups])
        return np.split(per_environment, ends[:-1])

    def _step(self, index: int, row: GroupRow) -> Step:
        terminated, truncated, first = (
            ended.view(np.uint8) for ended in (row.terminated, row.truncated, row.first)
        )
        flags = TERMINATED * terminated + TRUNCATED * truncated + FIRST * first  # [n] uint8
        arrays = StepArrays(
            self._run_ids[index], row.observations, row.rewards, flags, row.episodes
        )
        return Step(self.number, index, self._seqs[index], step_frames(arrays))
