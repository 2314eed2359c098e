"""An algorithm that learns nothing and checks every unroll that the counter environment left.

It raises at the first wrong row, which ends the learner with exit code 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seed.contract import ActOutput, Fleet, LossResult, NetworkConfig, Rows, SpaceSpec, Unroll
from tools.chaos.checking import find_wrong

DATA_SOURCE: Literal["queue"] = "queue"

# (history, row) of every unroll's row T, waiting for the next unroll of the history
_next_starts: set[tuple[int, int]] = set()
_histories: set[int] = set()
_checked = 0


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


class Recorder(nn.Module):
    """Its recurrent state is the last row number it saw; its one weight keeps optimizers happy."""

    state_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> Recorder:
    return Recorder()


def act(
    agent: Recorder,
    rows: Rows,
    agent_state: Tensor,
    config: Config,
    *,
    fleet: Fleet,
    greedy: bool,
) -> ActOutput:
    newest = rows.observations[""][0, :, -1]  # [B, 4] int64
    episode_row = newest[:, 2:3].float()
    actions = torch.randint(0, 5, (len(newest),))
    return ActOutput(actions, {"observation": newest, "state": agent_state}, episode_row + 1)


def loss(agent: Recorder, target: Any, unroll: Unroll, config: Config) -> LossResult:
    newest = unroll.rows.observations[""][:, :, -1]  # [T + 1, B, 4] int64
    # Before a run every loss is tried on zeros.
    if newest.any():
        _check(unroll, newest)
    metrics = {"unrolls_checked": torch.tensor(float(_checked)),
               "histories": torch.tensor(float(len(_histories)))}  # fmt: skip
    return LossResult(agent.weight.sum() * 0, metrics)


def _check(unroll: Unroll, newest: Tensor) -> None:
    global _checked
    rows = unroll.rows
    history, row, episode_row, _ = newest.unbind(-1)
    for what, wrong in find_wrong(unroll, newest, torch.where(rows.first, 0, row)).items():
        _require(not wrong.any(), what)
    # In lock-step nothing has been done at row T yet.
    acted = -1 if not unroll.behaviour["observation"][-1].any() else None
    observation = unroll.behaviour["observation"][:acted]
    _require(torch.equal(observation, newest[:acted]), "behaviour of another row")
    state = unroll.behaviour["state"][:acted, :, 0]
    _require(torch.equal(state, episode_row[:acted].float()), "recurrent state while acting")
    _require(torch.equal(unroll.agent_state[:, 0], episode_row[0].float()), "stored state")
    _check_stacks(rows.observations[""], episode_row)
    _check_succession(history[0].tolist(), row)
    _checked += history.shape[1]


def _check_stacks(observations: Tensor, episode_row: Tensor) -> None:
    """Frame k back is row − k of the same episode, zeros before its start."""
    stack = observations.shape[2]
    for back in range(1, stack):
        older, newest = observations[:, :, -1 - back], observations[:, :, -1]
        inside = episode_row >= back
        _require(torch.equal(older[inside][:, 1], newest[inside][:, 1] - back), "frame stack")
        _require(not older[~inside].any(), "frame stack reaches over an episode's start")


def _check_succession(histories: list[int], row: Tensor) -> None:
    """A history's unrolls follow one another: row T of one is row 0 of the next.

    The first one starts within the first T rows: those before it only fill its first page's end.
    """
    length = len(row) - 1
    for history, start, end in zip(histories, row[0].tolist(), row[-1].tolist(), strict=True):
        if history in _histories:
            _require((history, start) in _next_starts, "an unroll does not start at the last's T")
            _next_starts.remove((history, start))
        else:
            _require(start < length, "a history does not start in its first page")
        _histories.add(history)
        _next_starts.add((history, end))


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(f"wrong unroll: {what}")
