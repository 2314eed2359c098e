"""One update on zeros before the store takes the memory: how much must be left for learning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from seed.config.schema import Config, ConfigError
from seed.contract import Algorithm
from seed.contract.loading import optional_update_target
from seed.device.graphs import can_capture
from seed.learner.optimizers import make_optimizer
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
    device = next(agent.parameters()).device
    try:
        needed = probe(device, lambda: _update_once(algorithm, config, agent, layout))
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


def _update_once(
    algorithm: Algorithm, config: Config, agent: nn.Module, layout: StoreLayout
) -> None:
    """An update of a copy, on zeros, as the learner makes them."""
    device = next(agent.parameters()).device
    agent = copy.deepcopy(agent)
    target = None
    if optional_update_target(algorithm) is not None:
        target = copy.deepcopy(agent).requires_grad_(False)
    optimizer = make_optimizer(
        agent.parameters(),
        config.optimizer,
        capturable=config.learner.cuda_graphs and can_capture(device),
    )
    update = Update(config, algorithm, agent, target, optimizer)
    update.load(zero_unroll(layout, config.learner.batch_size, device))
    update.backward()
    update.step(0.0)


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
