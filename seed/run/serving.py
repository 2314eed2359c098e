"""Puts the acting side together: agent, store, forward pass, inference.

Training and evaluation both act through it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from seed.config.addresses import AUTO, USUAL
from seed.config.schema import Config, ConfigError, InferenceConfig
from seed.contract import ActOutput, Algorithm, Fleet
from seed.contract.answers import check_acted, check_agent
from seed.device.memory import available_bytes
from seed.device.names import resolve_precision
from seed.inference.admission import Offer
from seed.inference.forward import ForwardPass
from seed.inference.loop import Inference
from seed.learner.replay import count_unrolls
from seed.networks.body import Body
from seed.run.spaces import Spaces
from seed.store.layout import Column, StoreLayout
from seed.store.pages import PageLinks
from seed.store.rows import Rows
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import Authentication
from seed.wire.spaces import SpaceSpec

# Bytes that updates with unrolls of a layout take of the agent's device.
TryUpdate: TypeAlias = Callable[[StoreLayout], int]


def make_agent(
    algorithm: Algorithm, config: Config, spaces: Spaces, device: torch.device
) -> nn.Module:
    """An agent with weights drawn from the run's seed, the same at every call."""
    precision = resolve_precision(config.network.precision, device)
    network = dataclasses.replace(config.network, precision=precision)
    torch.manual_seed(config.seed)
    try:
        agent = algorithm.make_agent(
            spaces.observation, spaces.action, network, config.algorithm
        )
    except ValueError as error:
        raise ConfigError(f"network: {error}") from None
    return check_agent(agent, config.algorithm_name).to(device)


def plan_store(
    algorithm: Algorithm,
    config: Config,
    spaces: Spaces,
    agent: nn.Module,
    device: torch.device,
    *,
    replay: bool = False,
    try_update: TryUpdate | None = None,
) -> StoreLayout:
    """The form of a store for what this agent's acting leaves, and for the replay if asked for.

    Its size never blocks the learner: for each environment an open page, the one before as its
    context and one in the queue, and two batches, besides replay's own pages.

    Where the agent is on the same device, what `try_update` says that its updates need must fit
    there, too.

    Raises:
        ConfigError: where it does not fit into the device's memory.
    """
    layout = _layout(algorithm, config, spaces, agent)
    if replay:
        unrolls = count_unrolls(layout, config.replay)
        layout = dataclasses.replace(
            layout,
            num_pages=layout.num_pages + unrolls,
            burn_in=config.replay.burn_in,
            replay_unrolls=unrolls,
        )
    needed = try_update(layout) if try_update is not None else 0
    if _device_of(agent, device) != torch.empty(0, device=device).device:
        needed = 0
    available = available_bytes(device)
    if layout.nbytes + needed > available:
        learning = f", updates {needed / 2**30:.1f} GiB" if needed else ""
        raise ConfigError(
            f"{_describe_size(config, replay)}: the store's {layout.num_pages} pages of "
            f"{layout.unroll_length} rows take {layout.nbytes / 2**30:.1f} GiB{learning}, and "
            f"{device} has {available / 2**30:.1f} GiB free; make it smaller or choose another "
            "device"
        )
    return layout


def make_store(
    algorithm: Algorithm,
    config: Config,
    spaces: Spaces,
    agent: nn.Module,
    device: torch.device,
    *,
    replay: bool = False,
    try_update: TryUpdate | None = None,
) -> UnrollStore:
    """The store that `plan_store` describes, with its memory on the device; same arguments.

    Where it is in host memory and the agent is on a GPU, batches are gathered for that GPU.
    """
    layout = plan_store(
        algorithm, config, spaces, agent, device, replay=replay, try_update=try_update
    )
    to_gpu = device.type == "cpu" and _device_of(agent, device).type == "cuda"
    return UnrollStore(layout, device, pinned=to_gpu)


def _describe_size(config: Config, replay: bool) -> str:
    if not replay:
        return f"inference.max_envs = {config.inference.max_envs}"
    if config.replay.capacity_gib:
        return f"replay.capacity_gib = {config.replay.capacity_gib}"
    return f"replay.capacity_rows = {config.replay.capacity_rows}"


def _layout(
    algorithm: Algorithm, config: Config, spaces: Spaces, agent: nn.Module
) -> StoreLayout:
    """The store's form and its size without replay."""
    spare = 2 * (queue_limit(config) + config.learner.batch_size)
    acted = _try_act(algorithm, config, spaces, agent)
    return StoreLayout(
        unroll_length=config.learner.unroll_length,
        num_pages=3 * config.inference.max_envs + spare,
        max_envs=config.inference.max_envs,
        frame_stack=config.network.frame_stack,
        state_size=int(agent.state_size),  # type: ignore[arg-type]
        observation=_column(spaces.observation),
        action=_column(spaces.action),
        behaviour={
            name: Column(tuple(values.shape[1:]), values.dtype)
            for name, values in acted.behaviour.items()
        },
        evaluation_share=config.inference.evaluation_share,
        staggered=True,
    )


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
    authentication: Authentication | None = None,
) -> Inference:
    """Inference that acts with this agent, which is its own from here on; binds the socket.

    Raises:
        ConfigError: where the address cannot be bound.
    """
    prepare_to_act(agent)
    forward = ForwardPass(
        algorithm, config.algorithm, agent, store, config.inference.max_batch,
        greedy=greedy, cuda_graphs=config.inference.cuda_graphs,
    )  # fmt: skip
    offer = Offer(dataclasses.asdict(config.environment), spaces.observation, spaces.action, seed)
    return Inference(
        _with_known_address(config), offer, forward, store, slot,
        queue_limit=queue_limit(config), publish=publish, authentication=authentication,
    )  # fmt: skip


def _with_known_address(config: Config) -> InferenceConfig:
    """With the usual address for "auto" where environment servers must know it beforehand."""
    inference = config.inference
    if inference.address == AUTO and (config.local_envservers == 0 or inference.secret_key):
        return dataclasses.replace(inference, address=USUAL)
    return inference


def prepare_to_act(agent: nn.Module) -> None:
    """Makes this agent one that only acts: in evaluation mode, its torso's weights rounded."""
    for module in agent.eval().modules():
        if isinstance(module, Body):
            module.round_weights()


def describe_bodies(agent: nn.Module) -> list[str]:
    """A line for each body in the agent: its torso, and what becomes of observations."""
    return [module.description for module in agent.modules() if isinstance(module, Body)]


def queue_limit(config: Config) -> int:
    """Whole unrolls in the queue at which inference pauses."""
    return math.ceil(config.learner.queue_batches * config.learner.batch_size)


def _device_of(agent: nn.Module, otherwise: torch.device) -> torch.device:
    """Where the agent's weights are; an agent may have none."""
    return next((parameter.device for parameter in agent.parameters()), otherwise)


@torch.inference_mode()
def _try_act(algorithm: Algorithm, config: Config, spaces: Spaces, agent: nn.Module) -> ActOutput:
    """Acts once on zeros, to see what the algorithm stores with each row."""
    batch, stack = 2, config.network.frame_stack
    device = _device_of(agent, torch.device("cpu"))
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
    fleet = Fleet(
        torch.zeros(batch, device=device), torch.zeros(batch, dtype=torch.bool, device=device)
    )
    acted = algorithm.act(agent, rows, state, config.algorithm, fleet=fleet, greedy=False)
    check_acted(
        acted, config.algorithm_name,
        batch=batch, action=action, state_size=state.shape[1], device=device,
    )  # fmt: skip
    return acted


def _column(spec: SpaceSpec) -> Column:
    empty: Any = np.empty(0, spec.dtype)
    return Column(spec.shape, torch.from_numpy(empty).dtype)
