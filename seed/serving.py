"""Puts the acting side together: agent, store, forward pass, inference.

Training and evaluation both act through it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seed.config import Config, ConfigError
from seed.contract import Acted, Algorithm
from seed.forward import ForwardPass
from seed.inference import Inference, Offer
from seed.pages import PageLinks
from seed.spaces import Spaces, SpaceSpec
from seed.unrolls import Column, Rows, StoreLayout, UnrollStore
from seed.weights import WeightSlot


def make_agent(
    algorithm: Algorithm, config: Config, spaces: Spaces, device: torch.device
) -> nn.Module:
    """An agent with weights drawn from the run's seed, the same at every call."""
    torch.manual_seed(config.seed)
    try:
        agent = algorithm.make_agent(
            spaces.observation, spaces.action, config.network, config.algorithm
        )
    except ValueError as error:
        raise ConfigError(f"network: {error}") from None
    return agent.to(device)


def make_store(
    algorithm: Algorithm, config: Config, spaces: Spaces, agent: nn.Module, device: torch.device
) -> UnrollStore:
    """A store that holds what this agent's acting leaves behind.

    Its size never blocks the learner: for each environment an open page, the one before as its
    context and one in the queue, and two batches.
    """
    spare = 2 * (queue_limit(config) + config.learner.batch_size)
    state_size = int(agent.state_size)  # type: ignore[arg-type]
    acted = _try_act(algorithm, config, spaces, agent, device)
    action = Column(tuple(acted.actions.shape[1:]), acted.actions.dtype)
    if action != _column(spaces.action):
        raise ConfigError(
            f"algorithm.name = {config.algorithm_name!r}: act gives actions {action}, the "
            f"environment takes {_column(spaces.action)}"
        )
    layout = StoreLayout(
        unroll_length=config.learner.unroll_length,
        num_pages=3 * config.inference.max_envs + spare,
        max_envs=config.inference.max_envs,
        frame_stack=config.network.frame_stack,
        state_size=state_size,
        observation=_column(spaces.observation),
        action=action,
        behaviour={
            name: Column(tuple(values.shape[1:]), values.dtype)
            for name, values in acted.behaviour.items()
        },
    )
    return UnrollStore(layout, device)


def make_inference(
    algorithm: Algorithm,
    config: Config,
    spaces: Spaces,
    store: UnrollStore,
    agent: nn.Module,
    slot: WeightSlot,
    publish: Callable[[list[PageLinks]], None],
    *,
    seed: tuple[int, ...],
    greedy: bool = False,
) -> Inference:
    """Inference that acts with this agent, which is its own from here on; binds the socket.

    Raises:
        ConfigError: where the address cannot be bound.
    """
    forward = ForwardPass(
        algorithm, config.algorithm, agent.eval(), store, config.inference.max_batch, greedy=greedy
    )
    offer = Offer(dataclasses.asdict(config.environment), spaces.observation, spaces.action, seed)
    return Inference(
        config.inference, offer, forward, store, slot,
        queue_limit=queue_limit(config), publish=publish,
    )  # fmt: skip


def queue_limit(config: Config) -> int:
    """Whole unrolls in the queue at which inference pauses."""
    return math.ceil(config.learner.queue_batches * config.learner.batch_size)


@torch.inference_mode()
def _try_act(
    algorithm: Algorithm, config: Config, spaces: Spaces, agent: nn.Module, device: torch.device
) -> Acted:
    """Acts once on zeros, to see what the algorithm stores with each row."""
    batch, stack = 2, config.network.frame_stack
    observation, action = _column(spaces.observation), _column(spaces.action)

    def zeros(column: Column, *leading: int) -> Tensor:
        return torch.zeros(1, batch, *leading, *column.shape, dtype=column.dtype, device=device)

    rows = Rows(
        observations=zeros(observation, *([stack] if stack > 1 else [])),
        previous_actions=zeros(action),
        rewards=zeros(Column((), torch.float32)),
        terminated=zeros(Column((), torch.bool)),
        truncated=zeros(Column((), torch.bool)),
        first=zeros(Column((), torch.bool)),
    )
    state = torch.zeros(batch, int(agent.state_size), device=device)  # type: ignore[arg-type]
    return algorithm.act(agent, rows, state, config.algorithm, greedy=False)


def _column(spec: SpaceSpec) -> Column:
    empty: Any = np.empty(0, spec.dtype)
    return Column(spec.shape, torch.from_numpy(empty).dtype)
