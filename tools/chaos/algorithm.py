"""V-trace that checks every unroll before it learns from it.

Unlike other algorithms it remembers and logs: that is what it is for. What it counts is of this
process; whoever reads the metrics adds up the processes of a run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import defaultdict

import torch
from torch import Tensor

from seed.algorithms import vtrace
from seed.algorithms.vtrace import DATA_SOURCE, Config, act
from seed.contract import (
    ActorCritic,
    ActorCriticOutput,
    LossResult,
    NetworkConfig,
    Rows,
    SpaceSpec,
    Unroll,
)
from tools.chaos.checking import Ends, find_wrong
from tools.chaos.marks import (
    ENV_SHIFT,
    HISTORY,
    MADE_US,
    NUM_MARKS,
    REWARD,
    SERVER_SHIFT,
    WRONG,
)

__all__ = ["DATA_SOURCE", "Config", "act", "loss", "make_agent"]

log = logging.getLogger(__name__)


class Agent(ActorCritic):
    """V-trace's agent, which does not see the marks."""

    def forward(
        self, rows: Rows, rewards: Tensor, agent_state: Tensor, burn_in: int = 0
    ) -> ActorCriticOutput:
        """Runs over `[T, B]` rows with marks."""
        boards = rows.observations[""][..., NUM_MARKS:].float()  # [T, B, cells] float32
        seen = dataclasses.replace(rows, observations={"": boards})
        return super().forward(seen, rewards, agent_state, burn_in)


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> Agent:
    """An untrained agent for marked observations."""
    board = SpaceSpec("float32", (observation.shape[0] - NUM_MARKS,), None)
    return Agent(board, action, network)


def loss(agent: Agent, target: None, unroll: Unroll, config: Config) -> LossResult:
    """V-trace's loss; its metrics say what was checked, and how new each server's rows are.

    `unrolls_checked` and `unrolls_wrong` count all. Of environment server K's environments
    `envs_server_K` have been seen; each has given an unroll since `made_s_server_K`, in seconds
    since the measurement's start.
    """
    marks = unroll.rows.observations[""][..., :NUM_MARKS]  # [T + 1, B, marks] int64
    metrics = _checks.check(unroll, marks)
    result = vtrace.loss(agent, target, unroll, config)
    figures = {name: torch.tensor(value) for name, value in metrics.items()}
    return result._replace(metrics=result.metrics | figures)


class Checks:
    """Checks unrolls, logs wrong ones and keeps the counts."""

    def __init__(self) -> None:
        """Nothing checked yet."""
        self._ends = Ends()
        self._checked = self._wrong = 0
        # By server and environment, when row 0 of its newest unroll was made.
        self._made_s: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def check(self, unroll: Unroll, marks: Tensor) -> dict[str, float]:
        """Checks a batch; all figures so far, by name."""
        if not marks.any():
            # The zeros on which every loss is tried before a run.
            return self._figures()
        wrong = find_wrong(unroll, marks, marks[..., REWARD])
        well_formed = ~torch.stack(list(wrong.values())).any(0)  # [B] bool
        wrong["it overlaps the one before"] = self._ends.find_overlapping(marks, well_formed)
        for b in torch.stack(list(wrong.values())).any(0).nonzero()[:, 0].tolist():
            self._wrong += 1
            _report([what for what, which in wrong.items() if which[b]], marks[:, b])
        self._checked += marks.shape[1]
        # A flipped bit may have spoiled a row's history, hardly those of most rows.
        histories = marks[..., HISTORY].mode(0).values.tolist()
        for history, made_us in zip(histories, marks[0, :, MADE_US].tolist(), strict=True):
            server = history >> SERVER_SHIFT
            self._made_s[server][history >> ENV_SHIFT] = made_us / 1e6
        return self._figures()

    def _figures(self) -> dict[str, float]:
        figures: dict[str, float] = {"unrolls_checked": self._checked, "unrolls_wrong": self._wrong}
        for server, made_s in self._made_s.items():
            figures[f"envs_server_{server}"] = len(made_s)
            figures[f"made_s_server_{server}"] = min(made_s.values())
        return figures


def _report(what: list[str], marks: Tensor) -> None:
    """Logs a wrong unroll's server, as most of its rows have it, and all of its marks."""
    text = {
        "server": int((marks[:, HISTORY] >> SERVER_SHIFT).mode().values),
        "made_s": float(marks[:, MADE_US].median()) / 1e6,
        "what": what,
        "marks": marks.tolist(),
    }
    log.error("%s%s", WRONG, json.dumps(text))


_checks = Checks()
