"""Rows and unrolls: the tensors that inference, the store, algorithms and the learner share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from seed.device.transfer import map_tensors

# The name of a plain space's observation, which has one part.
PLAIN_PART = ""


@dataclass(frozen=True)
class Rows:
    """What an agent sees. Leading dimensions `[T, B]`; in inference T is 1.

    Attributes:
        observations: By part: `[T, B, *shape]`, or `[T, B, stack, *shape]` with the newest frame
            last. Nested keys are joined by "/"; a plain space has one part, `PLAIN_PART`. Empty
            where they are left out.
        previous_actions: Chosen at the row before; zero at the first row of an episode.
        rewards: Arrived with the observation, as the environment gave them. `[T, B] float32`
        terminated: The episode ended here, and what follows is worth zero. `[T, B] bool`
        truncated: The episode was cut off here, and what follows has a value. `[T, B] bool`
        first: First row of an episode, or of a history that broke. `[T, B] bool`
    """

    observations: dict[str, Tensor]
    previous_actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    first: Tensor

    def between(self, start: int, stop: int | None = None) -> Rows:
        """Rows `start` to `stop` (exclusive; None for the end) in time, without copying."""
        part: Rows = map_tensors(self, lambda values: values[start:stop])
        return part


@dataclass(frozen=True)
class Unroll:
    """B unrolls as the learner sees them; T + 1 rows, row T only for the bootstrap value.

    Replay may put K rows of burn-in before row 0 (Kapturowski et al. 2019), for the recurrent
    state alone: nothing is learned from them. The queue has none: K = 0.

    Attributes:
        rows: `[K + T + 1, B, ...]`
        actions: Chosen from each row's observation. `[K + T + 1, B, ...]`
        behaviour: What the acting policy said at each row, by name. `[K + T + 1, B, ...]`
        policy_versions: Version of the weights that acted. `[K + T + 1, B] int64`
        agent_state: Recurrent state before the first of these rows. `[B, S] float32`
        importance: Factor on each unroll's loss: importance weights from replay, ones from the
            queue. `[B] float32`
        burn_in: K.
        prepared: What the algorithm's `prepare` made of these unrolls, by name. `[T, B, ...]` each
    """

    rows: Rows
    actions: Tensor
    behaviour: dict[str, Tensor]
    policy_versions: Tensor
    agent_state: Tensor
    importance: Tensor
    burn_in: int
    prepared: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def select(self, items: Tensor) -> Unroll:
        """Some of the unrolls, in this order: the only way in which a batch is cut.

        Args:
            items: Which of the B. `[n] int64`
        """
        items = items.to(self.importance.device)
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Unroll(**{name: _take(part, items, name) for name, part in parts.items()})


# Of an unroll, what has no dimension of time.
_TIMELESS = ("agent_state", "importance")


def _take(part: Any, items: Tensor, name: str) -> Any:
    """Copies these items of a field of an unroll, along B."""
    along = 0 if name in _TIMELESS else 1
    return map_tensors(part, lambda values: values.index_select(along, items))


class Arrivals(NamedTuple):
    """What environments sent for one row each, all on the store's device.

    Attributes:
        observations: By part, `[n, *shape]`; without those that are in the store already.
        rewards: `[n] float32`
        terminated: `[n] bool`
        truncated: `[n] bool`
    """

    observations: dict[str, Tensor]
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
