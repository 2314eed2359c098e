"""Into which parts a batch is cut, and in what order they are learned from: no learning here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seed.contract import Passes
from seed.device.transfer import map_tensors
from seed.store.rows import Unroll

# Beside the run's seed, so that nothing else which draws by that seed draws the same.
_SHUFFLES = 0x5EED


class Minibatch(NamedTuple):
    """What one update learns from.

    Attributes:
        epoch: The pass over the batch that it is of, from 0.
        items: Which of the batch's items. `[n] int64`
    """

    epoch: int
    items: Tensor


def sizes(count: int, parts: int) -> list[int]:
    """Sizes of so many parts of so many items, as near to each other as can be; no part is empty.

    Where environments were lost there may be fewer items than parts: then each is a part.
    """
    parts = min(parts, count)
    return [count // parts + (part < count % parts) for part in range(parts)]


def deal(count: int, passes: Passes, seed: int, update: int) -> Iterator[Minibatch]:
    """Every item once in each pass, shuffled anew.

    The order depends on the arguments alone: a run that goes on from a checkpoint shuffles as it
    would have, and torch's own generator, which all threads share, has no part in it.

    Args:
        count: Items of the batch.
        passes: How often, and into how many parts.
        seed: The run's.
        update: Updates made before this batch.
    """
    rng = np.random.default_rng([_SHUFFLES, seed, update])
    parts = sizes(count, passes.minibatches)
    for epoch in range(passes.epochs):
        order = rng.permutation(count)
        for items in np.split(order, np.cumsum(parts)[:-1]):
            yield Minibatch(epoch, torch.from_numpy(items))


def as_rows(unroll: Unroll) -> Unroll:
    """Rows 0..T-1 of all B unrolls in a row, `[1, T B, ...]`, row t of unroll b at t B + b.

    The row that only bootstraps is left out, and there is no recurrent state: `[T B, 0]`.
    """
    length = len(unroll.actions) - 1

    def flat(part: Any) -> Any:
        return map_tensors(part, lambda values: values[:length].flatten(0, 1)[None])

    importance = unroll.importance.repeat(length)  # [T B] float32
    return Unroll(
        rows=flat(unroll.rows),
        actions=flat(unroll.actions),
        behaviour=flat(unroll.behaviour),
        policy_versions=flat(unroll.policy_versions),
        agent_state=unroll.agent_state.new_zeros(len(importance), 0),
        importance=importance,
        burn_in=0,
        prepared=flat(unroll.prepared),
    )
