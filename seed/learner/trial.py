"""An update on zeros before anything starts: what is wrong with it, and what memory it takes."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from seed.config.schema import Config, ConfigError
from seed.contract import Algorithm, Passes
from seed.contract.answers import check_first_priorities, check_passes, check_prepared
from seed.contract.blame import refusing
from seed.contract.loading import (
    optional_after_batch,
    optional_initial_priorities,
    optional_passes,
    optional_prepare,
    optional_update_target,
)
from seed.device.graphs import can_capture
from seed.learner.batch_updates import find_groups
from seed.learner.optimizers import make_optimizer
from seed.learner.passes import as_rows, sizes
from seed.learner.update import Update
from seed.store.layout import Column, StoreLayout
from seed.store.rows import Rows, Unroll

# Does the work and returns how many bytes of the device it took at most.
Probe: TypeAlias = Callable[[torch.device, Callable[[], None]], int]


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
    """Does the work and returns the bytes that it took at most, beyond those taken before.

    On a CPU nothing counts them: the work is not done, and the answer is 0.
    """
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before: int = torch.cuda.memory_reserved(device)
    work()
    torch.cuda.synchronize(device)
    peak: int = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    return peak - before


def update_bytes(
    algorithm: Algorithm,
    config: Config,
    agent: nn.Module,
    layout: StoreLayout,
    probe: Probe = peak_bytes,
) -> int:
    """Bytes of the agent's device that a run's updates need: optimizer, target, batch, activations.

    The agent stays as it is: a copy of it learns.

    Raises:
        ConfigError: where the device has not even the memory for one update.
    """
    device, batch = next(agent.parameters()).device, config.learner.batch_size
    try:
        needed = probe(device, lambda: _update_once(algorithm, config, agent, layout, batch))
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"learner.batch_size = {config.learner.batch_size}: one update of so many unrolls of "
            f"{layout.unroll_length} rows takes more memory than {device} has ({reason}); make it "
            'smaller, or learner.unroll_length, or set network.precision = "bfloat16"'
        ) from None
    # A captured update has memory of its own, beside that of the calls before it.
    captured = config.learner.cuda_graphs and can_capture(device)
    return 2 * needed if captured else needed


def rehearse(
    algorithm: Algorithm, config: Config, agent: nn.Module, layout: StoreLayout
) -> None:
    """Tries on a few unrolls of zeros all that the algorithm's functions do to a batch.

    The agent stays as it is.

    Raises:
        ConfigError: where one of them raises, or returns what the contract does not say.
    """
    passes = _check_passes(algorithm, config, layout)
    batch_size = 2
    if passes is not None:
        # An item for each part.
        rows = layout.unroll_length if passes.items == "rows" else 1
        batch_size = max(batch_size, math.ceil(passes.minibatches / rows))
    _update_once(algorithm, config, agent, layout, min(batch_size, config.learner.batch_size))
    initial = optional_initial_priorities(algorithm)
    if initial is not None and algorithm.DATA_SOURCE == "replay":
        kept = dataclasses.replace(layout, burn_in=0, observations={}, state_size=0)
        unroll = zero_unroll(kept, batch_size, next(agent.parameters()).device)
        with refusing(algorithm, config.algorithm_name, "initial_priorities"):
            priorities = initial(unroll, config.algorithm)
        check_first_priorities(priorities, config.algorithm_name, batch=batch_size)


def _check_passes(algorithm: Algorithm, config: Config, layout: StoreLayout) -> Passes | None:
    make = optional_passes(algorithm)
    if make is None:
        return None
    with refusing(algorithm, config.algorithm_name, "passes"):
        passes = make(config.algorithm)
    return check_passes(
        passes, config.algorithm_name,
        replay=algorithm.DATA_SOURCE == "replay", batch_size=config.learner.batch_size,
        unroll_length=layout.unroll_length, state_size=layout.state_size, burn_in=layout.burn_in,
    )  # fmt: skip


def _update_once(
    algorithm: Algorithm, config: Config, agent: nn.Module, layout: StoreLayout, batch_size: int
) -> None:
    """An update of a copy, on zeros, as the learner makes them, and what follows from it."""
    name, device = config.algorithm_name, next(agent.parameters()).device
    agent = copy.deepcopy(agent)
    update_target = optional_update_target(algorithm)
    target = copy.deepcopy(agent).requires_grad_(False) if update_target else None
    optimizer = make_optimizer(
        find_groups(algorithm, config, agent),
        config.optimizer,
        capturable=config.learner.cuda_graphs and can_capture(device),
    )
    passes = _check_passes(algorithm, config, layout)
    update = Update(config, algorithm, agent, target, optimizer, passes)
    unroll = zero_unroll(layout, batch_size, device)
    prepare = optional_prepare(algorithm)
    if prepare is not None:
        with torch.no_grad(), refusing(algorithm, name, "prepare"):
            prepared = prepare(agent, target, unroll, config.algorithm)
        prepared = check_prepared(
            prepared, name, length=layout.unroll_length, batch=batch_size, device=device
        )
        unroll = dataclasses.replace(unroll, prepared=prepared)
    if passes is not None:
        unroll = as_rows(unroll) if passes.items == "rows" else unroll
        first = sizes(len(unroll.importance), passes.minibatches)[0]
        unroll = unroll.select(torch.arange(first))
    update.load(unroll)
    with refusing(algorithm, name, "loss"):
        statistics = update.backward().statistics
    update.step(0.0)
    if update_target is not None and target is not None:
        with refusing(algorithm, name, "update_target"):
            update_target(agent, target, 1, config.algorithm)
    _try_after_batch(algorithm, config, agent, target, statistics or {})


def _try_after_batch(
    algorithm: Algorithm,
    config: Config,
    agent: nn.Module,
    target: nn.Module | None,
    statistics: dict[str, Tensor],
) -> None:
    """Raises ConfigError where it puts other tensors into the place of the agent's."""
    after_batch = optional_after_batch(algorithm)
    if after_batch is None:
        return
    before = {key: tensor.data_ptr() for key, tensor in agent.state_dict().items()}
    with torch.no_grad(), refusing(algorithm, config.algorithm_name, "after_batch"):
        after_batch(agent, target, statistics, 1, config.algorithm)
    after = {key: tensor.data_ptr() for key, tensor in agent.state_dict().items()}
    if replaced := sorted(key for key in before if before[key] != after.get(key)):
        raise ConfigError(
            f"algorithm.name = {config.algorithm_name!r}: after_batch replaces "
            f"{', '.join(replaced)}; expected to find the tensors changed in place, with copy_ say"
        )


def zero_unroll(layout: StoreLayout, batch_size: int, device: torch.device) -> Unroll:
    """Unrolls of the form that the store gathers, all zeros."""
    count = layout.burn_in + layout.unroll_length + 1

    def zeros(form: Column, *stack: int) -> Tensor:
        """Of every row. `[K + T + 1, B, *stack, *shape]`"""
        shape = (count, batch_size, *stack, *form.shape)
        return torch.zeros(shape, dtype=form.dtype, device=device)

    flag = Column((), torch.bool)
    return Unroll(
        rows=Rows(
            observations={
                part: zeros(form, *layout.stack_shape(part))
                for part, form in layout.observations.items()
            },
            previous_actions=zeros(layout.action),
            rewards=zeros(Column((), torch.float32)),
            terminated=zeros(flag),
            truncated=zeros(flag),
            first=zeros(flag),
        ),
        actions=zeros(layout.action),
        behaviour={name: zeros(form) for name, form in layout.behaviour.items()},
        policy_versions=zeros(Column((), torch.int64)),
        agent_state=torch.zeros(batch_size, layout.state_size, device=device),
        importance=torch.ones(batch_size, device=device),
        burn_in=layout.burn_in,
    )
