"""The work of a run without the system around it: bare stepping, acting and learning.

Each is a function that is called again and again and says how many environment steps one call
stands for. `tools.bench.roofline` runs the same one in a process per core.
"""

from __future__ import annotations

import copy
import dataclasses
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from envservers.environments.atari import AtariGroup
from envservers.environments.factory import describe, make_group
from envservers.main import group_sizes
from seed.config.loading import parse_command_line
from seed.config.schema import Config
from seed.contract import Fleet
from seed.contract.loading import (
    acting_part,
    load_algorithm,
    load_algorithm_config,
    optional_update_target,
)
from seed.device.names import resolve_device
from seed.device.transfer import move
from seed.learner.optimizers import make_optimizer
from seed.process.tuning import keep_freed_memory
from seed.run.build import prepare_to_act
from seed.run.description import Spaces
from seed.run.plan import make_agent
from seed.store.rows import PLAIN_PART, Rows, Unroll
from seed.wire.spaces import SpaceSpec

Kind = Literal["stepping", "acting", "learning"]

# Groups of actions drawn beforehand: drawing is not measured.
_PREPARED = 1000
# Of a row to be the last of its episode.
_END_PROBABILITY = 0.002


class Work(NamedTuple):
    """Work: `run` does it once and returns the environment steps that this stands for."""

    run: Callable[[], float]
    close: Callable[[], None] = lambda: None


class Task(NamedTuple):
    """What a process is asked to measure.

    Attributes:
        kind: Which work.
        seconds: For how long, at least; a call is never cut short.
        batch: Rows of a forward pass; for acting only.
    """

    kind: Kind
    seconds: float
    batch: int = 0


class Pace(NamedTuple):
    """Environment steps that a process's calls stood for, and what they took.

    `cpu_s` is of all the process's threads.
    """

    steps: float
    elapsed_s: float
    cpu_s: float


def describe_spaces(config: Config) -> Spaces:
    """Returns the forms of the configuration's observations and actions."""
    return Spaces(*describe(dataclasses.asdict(config.environment)))


def make_stepping(config: Config) -> Work:
    """Returns a step of one group of environments with random actions, as large as the run's own.

    Of Atari it is ale-py's own step, without what `envservers.environments.atari` adds but with
    actions in the same form, in which ale-py takes them fastest. The step that starts the next
    episode counts too.
    """
    count = group_sizes(config.local.envs_per_server, config.local.groups_per_server)[0]
    group = make_group(dataclasses.asdict(config.environment), count)
    rng = np.random.default_rng()
    group.reset(rng.integers(2**31 - 1, size=count))
    actions: Any = _random_actions(group.action, (_PREPARED, count), rng)
    step: Callable[[Any], object] = group.step
    if isinstance(group, AtariGroup):
        actions, step = actions.tolist(), partial(_emulate, group._env.ale, [1.0] * count)
    calls = 0

    def run() -> float:
        """A step of the group; returns its rows."""
        nonlocal calls
        step(actions[calls % _PREPARED])
        calls += 1
        return count

    return Work(run, group.close)


def _emulate(emulator: Any, strengths: list[float], actions: list[int]) -> object:
    emulator.send(actions, strengths)
    return emulator.recv()


def _random_actions(
    space: SpaceSpec, leading: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Actions `[*leading, *shape]`: uniform where they are Discrete, normal in a Box."""
    size = (*leading, *space.shape)
    if space.n is not None:
        return rng.integers(space.n, size=size)
    return rng.standard_normal(size).astype(space.dtype)


def make_acting(config: Config, batch: int) -> Work:
    """Returns a forward pass over `batch` random rows, with the actions on the host at its end."""
    device = resolve_device(config.inference.device, "inference.device")
    algorithm, spaces = load_algorithm(config.algorithm_name), describe_spaces(config)
    agent = acting_part(algorithm, make_agent(algorithm, config, spaces, device))
    prepare_to_act(agent)
    rows = _random_rows(config, spaces, 1, batch, device)
    state = torch.zeros(batch, _state_size(agent), device=device)  # [B, S] float32
    fleet = _make_fleet(batch, device)

    @torch.inference_mode()
    def run() -> float:
        """A forward pass; returns its rows."""
        acted = algorithm.act(agent, rows, state, config.algorithm, fleet=fleet, greedy=False)
        acted.actions.cpu()
        return batch

    return Work(run)


def make_learning(config: Config) -> Work:
    """Returns an update: loss, gradient, clipping and optimizer, on one random batch in memory.

    It stands for the steps that bring so many rows as it learns from: those of its unrolls, less
    what replay repeats, plus what evaluation environments do beside. The weights stay as they are:
    they could drift to where arithmetic is slower.
    """
    device = resolve_device(config.learner.device, "learner.device")
    algorithm, spaces = load_algorithm(config.algorithm_name), describe_spaces(config)
    agent = make_agent(algorithm, config, spaces, device)
    target = None
    if optional_update_target(algorithm) is not None:
        target = copy.deepcopy(agent).requires_grad_(False)
    unroll = make_unroll(config, agent, spaces, device)
    constant = dataclasses.replace(config.optimizer, learning_rate=0.0)
    optimizer = make_optimizer(agent.parameters(), constant)
    steps = steps_per_update(config)

    def run() -> float:
        """An update; returns the steps that it stands for."""
        result = algorithm.loss(agent, target, unroll, config.algorithm)
        optimizer.zero_grad()
        result.loss.backward()  # type: ignore[no-untyped-call]
        limit = config.optimizer.clip_norm or float("inf")
        # Like the learner, waits for the device before the weights may change.
        nn.utils.clip_grad_norm_(agent.parameters(), limit).item()
        optimizer.step()
        return steps

    return Work(run)


def steps_per_update(config: Config) -> float:
    """Returns the environment steps for which the learner makes one update, in the mean."""
    replayed = load_algorithm(config.algorithm_name).DATA_SOURCE == "replay"
    learned_per_step = config.replay.ratio if replayed else 1.0
    learned_per_step *= 1 - config.inference.evaluation_share
    return config.learner.batch_size * config.learner.unroll_length / learned_per_step


def make_unroll(config: Config, agent: nn.Module, spaces: Spaces, device: torch.device) -> Unroll:
    """Returns a batch of the run's shape: random rows, on which the agent has acted."""
    algorithm, count = load_algorithm(config.algorithm_name), config.learner.batch_size
    burn_in = config.burn_in
    length = burn_in + config.learner.unroll_length + 1
    rows = _random_rows(config, spaces, length, count, device)
    fleet = _make_fleet(count, device)
    start = state = torch.zeros(count, _state_size(agent), device=device)  # [B, S] float32
    acts = []
    with torch.no_grad():
        for t in range(length):
            state = state.masked_fill(rows.first[t][:, None], 0.0)
            acts.append(
                algorithm.act(
                    agent, rows.between(t, t + 1), state, config.algorithm, fleet=fleet,
                    greedy=False,
                )
            )  # fmt: skip
            state = acts[-1].agent_state
    return Unroll(
        rows=rows,
        actions=torch.stack([acted.actions for acted in acts]),
        behaviour={
            name: torch.stack([acted.behaviour[name] for acted in acts])
            for name in acts[0].behaviour
        },
        policy_versions=torch.zeros(length, count, dtype=torch.int64, device=device),
        agent_state=start,
        importance=torch.ones(count, device=device),
        burn_in=burn_in,
    )


def _random_rows(
    config: Config, spaces: Spaces, length: int, count: int, device: torch.device
) -> Rows:
    """Rows `[T, B]` of unconnected observations and actions; episodes are some 500 rows long."""
    stack = [config.network.frame_stack] if config.network.frame_stack > 1 else []
    size = (length, count, *stack, *spaces.observation.shape)
    rng = np.random.default_rng(0)
    observations = _random_observations(spaces.observation.dtype, size, rng)
    previous = _random_actions(spaces.action, (length, count), rng)
    terminated = torch.rand(length, count) < _END_PROBABILITY  # [T, B] bool
    first = terminated.roll(1, 0)
    first[0] = False
    rows = Rows(
        observations={PLAIN_PART: torch.from_numpy(observations)},
        previous_actions=torch.from_numpy(previous),
        rewards=torch.randn(length, count),
        terminated=terminated,
        truncated=torch.zeros_like(terminated),
        first=first,
    )
    moved: Rows = move(rows, device)
    return moved


def _random_observations(
    dtype: str, size: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Bytes over all their range, floats from a normal distribution, else zeros and ones.

    Large floats would saturate a network, and gradients below the smallest normal number are slow.
    """
    if dtype == "uint8":
        return rng.integers(0, 256, size, np.uint8)
    if dtype.startswith("float"):
        return rng.standard_normal(size, np.float32).astype(dtype)
    return rng.integers(0, 2, size).astype(dtype)


def _make_fleet(count: int, device: torch.device) -> Fleet:
    positions = torch.linspace(0, 1, count, device=device)  # [B] float32
    return Fleet(positions, torch.zeros(count, dtype=torch.bool, device=device))


def _state_size(agent: nn.Module) -> int:
    return int(agent.state_size)  # type: ignore[arg-type]


def make_work(task: Task, config: Config) -> Work:
    """Returns the work of a task."""
    if task.kind == "stepping":
        return make_stepping(config)
    return make_acting(config, task.batch) if task.kind == "acting" else make_learning(config)


def measure(run: Callable[[], float], seconds: float) -> Pace:
    """Calls it for so long, once at least."""
    steps = 0.0
    cpu_s, started_s = time.process_time(), time.perf_counter()
    while True:
        steps += run()
        elapsed_s = time.perf_counter() - started_s
        if elapsed_s >= seconds:
            return Pace(steps, elapsed_s, time.process_time() - cpu_s)


def serve(pipe: Connection, words: list[str]) -> None:
    """Measures what it is asked for, in a process of its own with one torch thread.

    For each `Task`: says None once it is prepared, measures upon the next message, says the `Pace`,
    and goes on with the work until a further message says that the other processes have measured.

    Args:
        pipe: To the process that asks; a None instead of a task ends this one.
        words: The command line of `seed-learner` that says which run it is.
    """
    # Ctrl-C is the asking process's business, which closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    config = parse_command_line(words, load_algorithm_config).config
    while (task := pipe.recv()) is not None:
        work = make_work(task, config)
        for _ in range(2):
            work.run()
        pipe.send(None)
        pipe.recv()
        pipe.send(measure(work.run, task.seconds))
        while not pipe.poll():
            work.run()
        pipe.recv()
        work.close()
