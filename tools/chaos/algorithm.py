"""V-trace that checks every unroll before it learns from it.

Unlike other algorithms it remembers and logs: that is what it is for. What it counts is of this
process; whoever reads the metrics adds up the processes of a run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter

import torch
from torch import Tensor

from seed.algorithms import vtrace
from seed.algorithms.vtrace import DATA_SOURCE, ActorCritic, Config
from seed.config import NetworkConfig
from seed.contract import Acted, Fleet, LossResult
from seed.rows import Rows, Unroll
from seed.wire import SpaceSpec
from tools.chaos.checking import Ends, find_wrong
from tools.chaos.marks import HISTORY, MADE_US, NUM_MARKS, REWARD, SERVER_SHIFT

__all__ = ["DATA_SOURCE", "WRONG", "Config", "act", "loss", "make_agent"]

WRONG = "wrong unroll of environment server "
"""The learner's log has a line with this for each wrong unroll, followed by the server's number."""

log = logging.getLogger(__name__)
_ends = Ends()
_counts: Counter[str] = Counter()


def make_agent(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, config: Config
) -> ActorCritic:
    """V-trace's agent for the observations behind the marks."""
    board = SpaceSpec("float32", (observation.shape[0] - NUM_MARKS,), None)
    return vtrace.make_agent(board, action, network, config)


def act(
    agent: ActorCritic,
    rows: Rows,
    agent_state: Tensor,
    config: Config,
    *,
    fleet: Fleet,
    greedy: bool,
) -> Acted:
    """V-trace's actions; the marks are not seen."""
    return vtrace.act(agent, _unmarked(rows), agent_state, config, fleet=fleet, greedy=greedy)


def loss(agent: ActorCritic, target: None, unroll: Unroll, config: Config) -> LossResult:
    """V-trace's loss; its metrics say what was checked, and how new each server's rows are.

    `made_s_server_K` is when row 0 of the newest unroll of environment server K was made, in
    seconds since the measurement's start, and `unrolls_server_K` how many of its unrolls there
    were.
    """
    marks = unroll.rows.observations[..., :NUM_MARKS]  # [T + 1, B, marks] int64
    wrong = find_wrong(unroll, marks, marks[..., REWARD])
    wrong["it overlaps the one before"] = _ends.find_overlapping(marks)
    _report(wrong, marks)
    result = vtrace.loss(
        agent, target, dataclasses.replace(unroll, rows=_unmarked(unroll.rows)), config
    )
    return result._replace(metrics=result.metrics | _count(wrong, marks))


def _unmarked(rows: Rows) -> Rows:
    return dataclasses.replace(rows, observations=rows.observations[..., NUM_MARKS:].float())


def _report(wrong: dict[str, Tensor], marks: Tensor) -> None:
    for what, which in wrong.items():
        for b in which.nonzero()[:, 0].tolist():
            servers = (marks[:, b, HISTORY] >> SERVER_SHIFT).tolist()
            log.error("%s%d: %s; its marks: %s", WRONG, servers[0], what, marks[:, b].tolist())


def _count(wrong: dict[str, Tensor], marks: Tensor) -> dict[str, Tensor]:
    """Adds these unrolls to the counts; all metrics. `[]` each."""
    servers = marks[0, :, HISTORY] >> SERVER_SHIFT  # [B] int64
    _counts["unrolls_checked"] += len(servers)
    _counts["unrolls_wrong"] += int(torch.stack(list(wrong.values())).any(0).sum())
    metrics = {}
    for server in servers.unique().tolist():
        mine = servers == server
        _counts[f"unrolls_server_{server}"] += int(mine.sum())
        metrics[f"made_s_server_{server}"] = marks[0, mine, MADE_US].max() / 1e6
    return metrics | {name: torch.tensor(float(count)) for name, count in _counts.items()}
