"""What a process is going to run: sizes, devices, the store's form, the network; nothing starts.

A run is built from its plan, an evaluation from one with no learning in it, and a dry run prints
one.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from seed.config.addresses import candidates
from seed.config.checks import check_lockstep, check_source
from seed.config.loading import to_toml
from seed.config.schema import Config, ConfigError
from seed.contract import ActOutput, Algorithm, Fleet
from seed.contract.answers import check_acted, check_agent
from seed.contract.blame import refusing
from seed.contract.loading import (
    acting_part,
    load_algorithm,
    optional_acting_part,
    optional_lockstep,
)
from seed.device.memory import available_bytes
from seed.device.names import resolve_device, resolve_precision
from seed.learner.checkpoint import Checkpoint
from seed.learner.replay import count_unrolls
from seed.learner.trial import rehearse, update_bytes
from seed.networks.body import Body
from seed.run.description import Spaces, describe
from seed.run.local_servers import server_command, server_count
from seed.store.fleet import evaluation_environments
from seed.store.layout import Column, StoreLayout
from seed.store.rows import PLAIN_PART, Rows
from seed.wire.spaces import SpaceSpec
from seed.wire.terminal import counted

log = logging.getLogger(__name__)

# Bytes that updates with unrolls of a layout take of the agent's device.
TryUpdate: TypeAlias = Callable[[StoreLayout], int]


@dataclass(frozen=True)
class Plan:
    """One process, before any of its memory, sockets, files and processes are there.

    Attributes:
        config: All that was asked for.
        loaded: The checkpoint that it goes on from, or plays; None for a start at the first frame.
        algorithm: The module that `config` names.
        spaces: Forms of observations and actions.
        agent: The network with its first weights, on the learning device.
        acting_device: Where inference is.
        learning_device: Where the learner is; in an evaluation the acting device.
        store_device: Where the rows are.
        layout: The store's form and size.
        server_count: Environment servers on this machine.
        seed: Of environments and sampling; its second part differs from process to process.
        first_envs: In lock-step, environments that the first round waits for; else None.
    """

    config: Config
    loaded: Checkpoint | None
    algorithm: Algorithm
    spaces: Spaces
    agent: nn.Module
    acting_device: torch.device
    learning_device: torch.device
    store_device: torch.device
    layout: StoreLayout
    server_count: int
    seed: tuple[int, int]
    first_envs: int | None = None


def plan_run(config: Config, loaded: Checkpoint | None) -> Plan:
    """The plan of a run's next process.

    Raises:
        ConfigError: where fields do not fit each other, the machine or the environment.
        UnusableEnvironment: where the environment cannot be made.
    """
    servers = server_count(config)
    algorithm = load_algorithm(config.algorithm_name)
    check_source(config, algorithm.DATA_SOURCE)
    if config.replay.burn_in is not None:
        log.info("replay.burn_in is called learner.burn_in by now; it counts under either name")
    lockstep = is_lockstep(algorithm, config)
    check_lockstep(config, algorithm.DATA_SOURCE, lockstep=lockstep)
    first_envs = config.learner.lockstep_envs or servers * config.local.envs_per_server
    if lockstep:
        config = _with_round_as_batch(config, first_envs or config.inference.max_envs)
    spaces = _spaces(config, loaded)
    acting = resolve_device(config.inference.device, "inference.device")
    learning = resolve_device(config.learner.device, "learner.device")
    replay, storing = has_replay(algorithm), acting
    if replay and config.replay.device != "auto":
        storing = resolve_device(config.replay.device, "replay.device")
    agent = make_agent(algorithm, config, spaces, learning)
    layout = plan_store(
        algorithm, config, spaces, agent, storing, replay=replay,
        try_update=partial(_bytes_beside_store, algorithm, config, agent),
    )  # fmt: skip
    rehearse(algorithm, config, agent, layout)
    return Plan(
        config, loaded, algorithm, spaces, agent, acting, learning, storing, layout, servers,
        seed=(config.seed, loaded.state["env_steps"] if loaded is not None else 0),
        first_envs=first_envs if lockstep else None,
    )  # fmt: skip


def _bytes_beside_store(
    algorithm: Algorithm, config: Config, agent: nn.Module, layout: StoreLayout
) -> int:
    """What updates take of a GPU, and the network that acts, which is made after the store."""
    needed = update_bytes(algorithm, config, agent, layout)
    acting = acting_part(algorithm, agent)
    return needed and needed + sum(tensor.nbytes for tensor in acting.state_dict().values())


def has_replay(algorithm: Algorithm) -> bool:
    """Whether an algorithm learns from replay instead of the queue."""
    return algorithm.DATA_SOURCE == "replay"


def is_lockstep(algorithm: Algorithm, config: Config) -> bool:
    """Whether acting waits for each update, by the configuration or else by the algorithm."""
    asked = config.learner.lockstep
    return optional_lockstep(algorithm) if asked == "auto" else asked


def _with_round_as_batch(config: Config, first_envs: int) -> Config:
    """With the unrolls of a round as its batch size: one of each environment that trains."""
    evaluation = evaluation_environments(first_envs, config.inference.evaluation_share)
    batch_size = max(1, first_envs - int(evaluation.sum()))
    learner = dataclasses.replace(config.learner, batch_size=batch_size)
    return dataclasses.replace(config, learner=learner)


def _spaces(config: Config, loaded: Checkpoint | None) -> Spaces:
    """The environment's spaces; with a checkpoint, its own if they are no others.

    What was learned fits the scale of observations that was in use then.
    """
    spaces = describe(config)
    kept = loaded.state.get("spaces") if loaded else None
    trained = Spaces.from_map(kept) if kept else spaces
    return trained if trained == spaces else spaces


def describe_plan(plan: Plan) -> str:
    """The resolved configuration, then as TOML comments what would start."""
    config, loaded, layout = plan.config, plan.loaded, plan.layout
    weights = sum(parameter.numel() for parameter in plan.agent.parameters())
    endpoint = candidates(config.inference.address)[0]
    command = server_command(config.local, endpoint, module_folders=config.module_folders)
    replayed = f", for a replay of {layout.replay_unrolls:,} unrolls"
    lines = [
        f"observations: {plan.spaces.observation}",
        f"actions: {plan.spaces.action}",
        f"agent: {type(plan.agent).__name__} with {weights:,} weights",
        *describe_bodies(plan.agent),
        f"acting on {plan.acting_device}, learning on {plan.learning_device}",
        f"from {loaded.state['env_frames']:,} frames on" if loaded else "from the first frame on",
        _describe_batches(plan),
        f"a store of {layout.nbytes / 2**30:.3g} GiB on {plan.store_device}"
        + (replayed if has_replay(plan.algorithm) else ""),
        f"{counted(plan.server_count, 'local environment server')}: {shlex.join(command)}",
    ]
    return to_toml(config) + "\n# would start:\n" + "\n".join(f"# {line}" for line in lines)


def _describe_batches(plan: Plan) -> str:
    length = plan.config.learner.unroll_length
    if plan.first_envs is not None:
        return f"in lock-step: an update from {length} steps of each environment that is connected"
    return f"a queue of {queue_limit(plan.config)} unrolls of {length} steps"


def describe_bodies(agent: nn.Module) -> list[str]:
    """A line for each body in the agent: its torso, and what becomes of observations."""
    return [module.description for module in agent.modules() if isinstance(module, Body)]


def make_agent(
    algorithm: Algorithm, config: Config, spaces: Spaces, device: torch.device
) -> nn.Module:
    """An agent with weights drawn from the run's seed, the same at every call."""
    precision = resolve_precision(config.network.precision, device)
    network = dataclasses.replace(config.network, precision=precision)
    name = config.algorithm_name
    torch.manual_seed(config.seed)
    with refusing(algorithm, name, "make_agent"):
        try:
            agent = algorithm.make_agent(
                spaces.observation, spaces.action, network, config.algorithm
            )
        except ValueError as error:
            raise ConfigError(f"network: {error}") from None
    with refusing(algorithm, name, "acting_part"):
        return check_agent(agent, name, optional_acting_part(algorithm)).to(device)


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
    """The form of a store for what its part that acts leaves, and for the replay if asked for.

    Its size never blocks the learner: for each environment an open page, the one before as its
    context and one in the queue, and two batches, besides replay's own pages.

    Where the agent is on the same device, what `try_update` says that its updates need must fit
    there, too.

    Raises:
        ConfigError: where it does not fit into the device's memory.
    """
    layout = _layout(algorithm, config, spaces, acting_part(algorithm, agent))
    if replay:
        unrolls = count_unrolls(layout, config.replay)
        layout = dataclasses.replace(
            layout,
            num_pages=layout.num_pages + unrolls,
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


def _describe_size(config: Config, replay: bool) -> str:
    if not replay:
        return f"inference.max_envs = {config.inference.max_envs}"
    if config.replay.capacity_gib:
        return f"replay.capacity_gib = {config.replay.capacity_gib}"
    return f"replay.capacity_rows = {config.replay.capacity_rows}"


def _layout(
    algorithm: Algorithm, config: Config, spaces: Spaces, acting: nn.Module
) -> StoreLayout:
    """The store's form and its size without replay."""
    spare = 2 * (queue_limit(config) + config.learner.batch_size)
    lockstep = is_lockstep(algorithm, config)
    acted = _try_act(algorithm, config, spaces, acting)
    return StoreLayout(
        unroll_length=config.learner.unroll_length,
        # In lock-step whoever comes back in mid-round opens one more, beside an unread round's.
        num_pages=(4 if lockstep else 3) * config.inference.max_envs + spare,
        max_envs=config.inference.max_envs,
        frame_stack=config.network.frame_stack,
        state_size=int(acting.state_size),  # type: ignore[arg-type]
        observations={PLAIN_PART: _column(spaces.observation)},
        action=_column(spaces.action),
        behaviour={
            name: Column(tuple(values.shape[1:]), values.dtype)
            for name, values in acted.behaviour.items()
        },
        burn_in=config.burn_in,
        evaluation_share=config.inference.evaluation_share,
        staggered=not lockstep,
    )


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
        observations={PLAIN_PART: zeros(observation, *([stack] if stack > 1 else []))},
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
    with refusing(algorithm, config.algorithm_name, "act"):
        acted = algorithm.act(agent, rows, state, config.algorithm, fleet=fleet, greedy=False)
    check_acted(
        acted, config.algorithm_name,
        batch=batch, action=action, state_size=state.shape[1], device=device,
    )  # fmt: skip
    return acted


def _column(spec: SpaceSpec) -> Column:
    empty: Any = np.empty(0, spec.dtype)
    return Column(spec.shape, torch.from_numpy(empty).dtype)
