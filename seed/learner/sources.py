"""Where the learner's batches come from: the queue of unrolls, or `seed.learner.replay`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seed.store.pages import PageLinks
from seed.store.ready_queue import RoundPages
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
        return _copy_out(self._store, pages)

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        """Does nothing: the unrolls are gone."""

    def scalars(self) -> dict[str, float]:
        """None."""
        return {}


class RoundSource:
    """All unrolls of a round of lock-step at once, however many they are."""

    lockstep = True

    def __init__(self, store: UnrollStore, start_env_steps: int) -> None:
        """Of the store into which inference writes, in a run with so many steps before."""
        self._store = store
        self._start_env_steps = start_env_steps
        self._round: RoundPages | None = None

    def wait(self, timeout_s: float) -> bool:
        """Whether a round has ended."""
        if self._round is None:
            self._round = self._store.take_round(timeout_s)
        return self._round is not None

    def next_batch(self) -> Batch:
        """Its unrolls, copied out; their pages are handed back."""
        assert self._round is not None
        taken, self._round = self._round, None
        env_steps = self._start_env_steps + taken.env_steps
        return _copy_out(self._store, taken.pages)._replace(env_steps=env_steps)

    def update_priorities(self, numbers: Int64Array, priorities: Tensor) -> None:
        """Does nothing: the unrolls are gone."""

    def scalars(self) -> dict[str, float]:
        """None."""
        return {}


def _copy_out(store: UnrollStore, pages: Sequence[PageLinks]) -> Batch:
    """The unrolls of these pages, which are handed back."""
    unroll, env_ids = store.gather(pages), store.owners(pages)
    if store.device.type == "cuda":
        # Pages may be written again once released: the copies must be complete.
        torch.cuda.current_stream(store.device).synchronize()
    store.release(pages)
    return Batch(unroll, env_ids)
