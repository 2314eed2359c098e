"""A forward pass with agents that show what they see, and steps to feed it with."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from seed.contract import ActOutput, Fleet
from seed.inference.batcher import GroupRows, InferenceBatch
from seed.inference.forward import ForwardPass
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Rows
from seed.store.unrolls import UnrollStore
from seed.wire import messages
from tests.seed.acting import Shown, acting, add_up

CPU = torch.device("cpu")
LAYOUT = StoreLayout(
    unroll_length=2,
    num_pages=30,
    max_envs=6,
    frame_stack=1,
    state_size=1,
    observations={"": Column((), torch.int64)},
    action=Column((), torch.int64),
    behaviour={"before": Column((), torch.float32)},
)


def _add_up_and_note(shown: Shown) -> ActOutput:
    """`add_up`, times the configuration, negative if greedy; "before" is the state before."""
    acted = add_up(shown)
    actions = acted.actions * shown.config * (-1 if shown.greedy else 1)
    return acted._replace(actions=actions, behaviour={"before": shown.agent_state[:, 0]})


SUMMING = acting(_add_up_and_note)


class Seeing:
    """Keeps what it was shown last; the actions are ten times the newest observation."""

    rows: Rows
    fleet: Fleet

    def __init__(self) -> None:
        self.algorithm = acting(self._choose)

    def _choose(self, shown: Shown) -> ActOutput:
        self.rows, self.fleet, state = shown.rows, shown.fleet, shown.agent_state
        newest = shown.rows.observations[""][0].reshape(len(state), -1)[:, -1]
        return ActOutput(10 * newest, {"before": state[:, 0]}, state + 1)


def make_forward(*, greedy: bool = False, max_batch: int = 6) -> tuple[ForwardPass, UnrollStore]:
    agent = nn.Linear(1, 1, bias=False)
    nn.init.ones_(agent.weight)
    store = UnrollStore(LAYOUT, CPU)
    return ForwardPass(SUMMING, 1, agent, store, max_batch, greedy=greedy), store


def group(
    env_ids: list[int], observations: list[int], *, flags: int = 0, run_id: int = 1
) -> GroupRows:
    n = len(env_ids)
    arrays = messages.StepArrays(
        run_ids=np.full(n, run_id, np.uint64),
        observations=np.array(observations),
        rewards=np.array(observations, np.float32) / 2,
        flags=np.full(n, flags, np.uint8),
        episodes=np.empty(0, messages.EPISODE_DTYPE),
    )
    return GroupRows(np.array(env_ids), arrays)


def run(forward: ForwardPass, *steps: GroupRows) -> list[int]:
    actions, _ = forward.run(InferenceBatch.of(steps))
    result: list[int] = actions.tolist()
    return result
