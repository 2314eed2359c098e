"""A session's messages."""

from __future__ import annotations

import numpy as np

from envservers.environments.group import Array, GroupRow
from envservers.session import Session
from seed.wire import messages
from seed.wire.spaces import SpaceSpec

OBSERVATION, ACTION = SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), 4)


class Prepared:
    """A group whose rows are always the same memory."""

    def __init__(self, num_envs: int) -> None:
        self.observation, self.action, self.num_envs = OBSERVATION, ACTION, num_envs
        no = np.zeros(num_envs, np.bool_)
        self.row = GroupRow(
            np.zeros((num_envs, *OBSERVATION.shape), np.uint8),
            np.zeros(num_envs, np.float32), no, no, no, np.empty(0, messages.EPISODE_DTYPE),
        )  # fmt: skip

    def reset(self, seeds: Array) -> GroupRow:
        return self.row

    def step(self, actions: Array) -> GroupRow:
        return self.row

    def close(self) -> None:
        pass


def test_observations_are_sent_from_the_groups_own_memory() -> None:
    group, numbers = Prepared(4), np.arange(4)
    welcome = messages.Welcome(7, {}, OBSERVATION, ACTION, numbers, numbers)
    session = Session(welcome, [group])
    steps = session.first_steps()
    steps.append(session.advance(messages.Actions(7, 0, 0, bytes(8 * 4))))
    for step in steps:
        sent = np.frombuffer(step.frames[1], np.uint8)
        assert sent.nbytes == group.row.observations.nbytes
        assert np.shares_memory(sent, group.row.observations)
