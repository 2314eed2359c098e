"""The control for off-policy learning: V-trace's algorithm with every importance ratio at one."""

from __future__ import annotations

import dataclasses

import torch

from seed.algorithms import vtrace
from seed.algorithms.vtrace import DATA_SOURCE, Config, act, make_agent
from seed.contract import ActorCritic, LossResult, Unroll
from seed.ops.reward_shaping import shape_rewards

__all__ = ["DATA_SOURCE", "Config", "act", "loss", "make_agent"]


def loss(agent: ActorCritic, target: None, unroll: Unroll, config: Config) -> LossResult:
    """V-trace's loss as if the current policy had acted."""
    with torch.no_grad():
        scale, clip = config.reward_scale, config.reward_clip
        rewards = shape_rewards(unroll.rows.rewards, scale, clip)
        policy = agent(unroll.rows, rewards, unroll.agent_state).policy
    unroll = dataclasses.replace(unroll, behaviour={"policy": policy})
    return vtrace.loss(agent, target, unroll, config)
