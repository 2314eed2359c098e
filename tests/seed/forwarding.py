"""A forward pass with agents that show what they see, and steps to feed it with."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from seed.contract import Acted, Algorithm, Fleet
from seed.forward import ForwardPass, GroupStep, InferenceBatch
from seed.layout import Column, StoreLayout
from seed.rows import Rows
from seed.unrolls import UnrollStore
from seed.wire import messages

CPU = torch.device("cpu")
LAYOUT = StoreLayout(
    unroll_length=2,
    num_pages=30,
    max_envs=6,
    frame_stack=1,
    state_size=1,
    observation=Column((), torch.int64),
    action=Column((), torch.int64),
    behaviour={"before": Column((), torch.float32)},
)


class Summing:
    """Adds up an episode's observations in its state; the action is the sum times a weight."""

    def act(
        self,
        agent: nn.Module,
        rows: Rows,
        agent_state: Tensor,
        config: int,
        *,
        fleet: Fleet,
        greedy: bool,
    ) -> Acted:
        after = agent_state + rows.observations[0][:, None]
        factor = cast(Tensor, agent.weight).item() * config * (-1 if greedy else 1)
        return Acted((after[:, 0] * factor).long(), {"before": agent_state[:, 0]}, after)


class Seeing:
    """Keeps what it was shown last; the actions are ten times the newest observation."""

    rows: Rows
    fleet: Fleet

    def act(
        self,
        agent: nn.Module,
        rows: Rows,
        agent_state: Tensor,
        config: None,
        *,
        fleet: Fleet,
        greedy: bool,
    ) -> Acted:
        self.rows, self.fleet = rows, fleet
        newest = rows.observations[0].reshape(len(agent_state), -1)[:, -1]
        return Acted(10 * newest, {"before": agent_state[:, 0]}, agent_state + 1)


def make_forward(*, greedy: bool = False, max_batch: int = 6) -> tuple[ForwardPass, UnrollStore]:
    agent = nn.Linear(1, 1, bias=False)
    nn.init.ones_(agent.weight)
    store = UnrollStore(LAYOUT, CPU)
    algorithm = cast(Algorithm, Summing())
    return ForwardPass(algorithm, 1, agent, store, max_batch, greedy=greedy), store


def group(
    env_ids: list[int], observations: list[int], *, flags: int = 0, run_id: int = 1
) -> GroupStep:
    n = len(env_ids)
    arrays = messages.StepArrays(
        run_ids=np.full(n, run_id, np.uint64),
        observations=np.array(observations),
        rewards=np.array(observations, np.float32) / 2,
        flags=np.full(n, flags, np.uint8),
        episodes=np.empty(0, messages.EPISODE_DTYPE),
    )
    return GroupStep(np.array(env_ids), arrays)


def run(forward: ForwardPass, *steps: GroupStep) -> list[int]:
    actions, _ = forward.run(InferenceBatch.of(steps))
    result: list[int] = actions.tolist()
    return result
