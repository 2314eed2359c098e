"""Where the learner's batches come from: the queue of unrolls, or `seed.learner.replay`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seed.store.pages import PageLinks
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.wire.arrays import Int64Array


class Batch(NamedTuple):
    """What one update learns from.

    Attributes:
        unroll: Copied out of the store: pages may be written again at any time.
        env_ids: Whose unrolls they are, as `UnrollStore.owners` says.
        numbers: Replay's numbers of the unrolls; None from the queue. `[B] int64`
        env_steps: Steps of all environments in the run up to this batch; None where acting has
            gone on since.
    """

    unroll: Unroll
    env_ids: list[int]
    numbers: Int64Array | None = None
    env_steps: int | None = None


class BatchSource(Protocol):
    """A source of batches; owned by the learner's thread.

    Attributes:
        lockstep: Whether acting waits for the end of each batch, which then has `env_steps`.
    """

    lockstep: bool

    def wait(self, timeout_s: float) -> bool:
        """Whether there is a batch before the timeout."""

    def next_batch(self) -> Batch:
        """The batch that `wait` has promised."""

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        """Priorities `[B] float32` that an update found for the unrolls with these numbers."""

    def scalars(self) -> dict[str, float]:
        """Figures for the metrics, by name."""


class QueueSource:
    """Every unroll once, in the order in which they became whole."""

    lockstep = False

    def __init__(self, store: UnrollStore, batch_size: int) -> None:
        """Batches of `batch_size` unrolls."""
        self._store = store
        self._batch_size = batch_size
        self._pages: list[PageLinks] = []

    def wait(self, timeout_s: float) -> bool:
        """Takes the oldest unrolls out of the queue, once there are enough of them."""
        if not self._pages:
            self._pages = self._store.take(self._batch_size, timeout_s)
        return bool(self._pages)

    def next_batch(self) -> Batch:
        """Those unrolls, copied out; their pages are handed back."""
        pages, self._pages = self._pages, []
        unroll, env_ids = self._store.gather(pages), self._store.owners(pages)
        if self._store.device.type == "cuda":
            # Pages may be written again once released: the copies must be complete.
            torch.cuda.current_stream(self._store.device).synchronize()
        self._store.release(pages)
        return Batch(unroll, env_ids)

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        """Does nothing: the unrolls are gone."""

    def scalars(self) -> dict[str, float]:
        """None."""
        return {}
