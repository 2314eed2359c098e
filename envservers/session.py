"""The groups of an environment server under one WELCOME: which row each has sent last."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from envservers.environments.group import Array, Group, GroupRow, InvalidEnvironment
from seed.wire.codec import check_actions, step_frames
from seed.wire.errors import WireError
from seed.wire.messages import (
    FIRST,
    NO_HISTORY,
    TERMINATED,
    TRUNCATED,
    Actions,
    Step,
    StepArrays,
    Welcome,
)


class Session:
    """Turns a WELCOME into first rows, and every ACTIONS message into the next row of its group.

    Raises:
        InvalidEnvironment: where the groups' specs differ from those that the learner announced.
        WireError: where the WELCOME does not count as many environments as there are.
    """

    def __init__(self, welcome: Welcome, groups: Sequence[Group]) -> None:
        """Draws new run_ids; nothing is reset or stepped yet."""
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
        self._run_ids = [_draw_run_ids(group.num_envs) for group in groups]
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

    def awaits(self, message: Actions) -> bool:
        """Whether these are the actions that their group waits for."""
        return (
            message.session == self.number
            and message.group < len(self._groups)
            and message.seq == self._seqs[message.group]
        )

    def advance(self, message: Actions) -> Step:
        """Steps the group that waits for these actions.

        Raises:
            WireError: for actions that are no actions of this environment.
        """
        index = message.group
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
            self._run_ids_of(index, row), row.observations, row.rewards, flags, row.episodes
        )
        return Step(self.number, index, self._seqs[index], step_frames(arrays))

    def _run_ids_of(self, index: int, row: GroupRow) -> Array:
        run_ids = self._run_ids[index]
        if row.restarted is not None and row.restarted.any():
            run_ids[row.restarted] = _draw_run_ids(len(run_ids))[row.restarted]
        return run_ids if row.down is None else np.where(row.down, NO_HISTORY, run_ids)


def _draw_run_ids(count: int) -> Array:
    """Random numbers of 64 bits, none of them NO_HISTORY. `[count] uint64`"""
    drawn = np.frombuffer(os.urandom(8 * count), np.uint64)
    return np.maximum(drawn, NO_HISTORY + 1).astype(np.uint64)
