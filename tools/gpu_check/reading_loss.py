"""V-trace with a loss that reads a value back to the host: no graph can be made of it."""

from __future__ import annotations

from typing import Literal

from seed.algorithms import vtrace
from seed.algorithms.vtrace import Config, act, make_agent
from seed.contract import ActorCritic, LossResult, Unroll

__all__ = ["DATA_SOURCE", "Config", "act", "loss", "make_agent"]

DATA_SOURCE: Literal["queue"] = "queue"


def loss(agent: ActorCritic, target: None, unroll: Unroll, config: Config) -> LossResult:
    """V-trace's own, after a look at the first reward."""
    unroll.rows.rewards[0, 0].item()
    return vtrace.loss(agent, target, unroll, config)
