"""The form and size of the store: which quantities each row has, how many rows there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from seed.store.rows import PLAIN_PART
from seed.wire.arrays import Int64Array

# At the end of every column, after the pages: one of zeros, and one for what nobody reads.
SPARE_ROWS = 2


class Column(NamedTuple):
    """Form of one stored quantity: the shape of one row of it, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoreLayout:
    """Everything that fixes the store's size.

    Attributes:
        unroll_length: T, the rows of a page.
        num_pages: Pages in all.
        max_envs: Environments that may write at a time.
        frame_stack: Newest observations that the network sees together; 1 for one. Only of the
            parts in `stacked`; of others it sees the newest.
        state_size: Numbers of an environment's recurrent state (S).
        observations: Form of one stored observation, by part.
        action: Form of one action.
        behaviour: Form of what the algorithm keeps of its acting policy, by name.
        burn_in: Rows before an unroll that `gather` puts before its row 0 (K).
        replay_unrolls: Unrolls that replay may hold; `num_pages` has room for them.
        evaluation_share: Share of the environments whose pages the learner never gets.
        staggered: Whether environments end their unrolls at different times, as `first_offsets`
            says.
        stacked: Parts of observations that the network sees in frame stacks.
    """

    unroll_length: int
    num_pages: int
    max_envs: int
    frame_stack: int
    state_size: int
    observations: Mapping[str, Column]
    action: Column
    behaviour: Mapping[str, Column]
    burn_in: int = 0
    replay_unrolls: int = 0
    evaluation_share: float = 0.0
    staggered: bool = False
    stacked: frozenset[str] = frozenset([PLAIN_PART])

    @property
    def context_rows(self) -> int:
        """Rows of the predecessor that an unroll needs: burn-in, frame stack, previous action."""
        return self.burn_in + max(1, self.frame_stack - 1)

    def stack_shape(self, part: str) -> tuple[int, ...]:
        """The dimension that a frame stack adds to a part of an observation; none without one."""
        return (self.frame_stack,) if self.frame_stack > 1 and part in self.stacked else ()

    @property
    def first_offsets(self) -> Int64Array:
        """Row of its first page at which a history of each environment begins. `[max_envs] int64`

        Environments that are stepped together would end all their unrolls together, and the
        learner would get them in bursts. What is left of a first page is still all the context
        that the page after it needs.
        """
        numbers = np.arange(self.max_envs, dtype=np.int64)
        return numbers % (self.unroll_length - self.context_rows + 1) * self.staggered

    @property
    def zero_row(self) -> int:
        """Flat row of zeros, which stands in for what lies before an episode's start."""
        return self.num_pages * self.unroll_length

    @property
    def scratch_row(self) -> int:
        """Flat row for what nobody reads."""
        return self.zero_row + 1

    @property
    def scratch_page(self) -> int:
        """Page for recurrent states that nobody reads; the one before is zero."""
        return self.num_pages + 1

    @property
    def state_row(self) -> int:
        """Row of a page at which it keeps the recurrent state.

        Where its successor's burn-in starts, or, without burn-in, its own row 0.
        """
        return (self.unroll_length - self.burn_in) % self.unroll_length

    @property
    def columns(self) -> dict[str, Column]:
        """Form of every stored quantity of a row, by name."""
        return {
            **{observation_column(part): form for part, form in self.observations.items()},
            "actions": self.action,
            "rewards": Column((), torch.float32),
            "terminated": Column((), torch.bool),
            "truncated": Column((), torch.bool),
            # Rows since the episode's first: says where an episode starts and where stacks end.
            "ages": Column((), torch.uint8),
            "policy_versions": Column((), torch.int32),
            **{f"behaviour.{name}": form for name, form in self.behaviour.items()},
        }

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row over all columns."""
        return sum(form.nbytes for form in self.columns.values())

    @property
    def page_nbytes(self) -> int:
        """Bytes of one page: its rows and its recurrent state."""
        return self.unroll_length * self.row_nbytes + 4 * self.state_size

    @property
    def nbytes(self) -> int:
        """Bytes of the whole store: its pages, and the spare rows of every column."""
        spare_nbytes = SPARE_ROWS * (self.row_nbytes + 4 * self.state_size)
        return self.num_pages * self.page_nbytes + spare_nbytes


def observation_column(part: str) -> str:
    """The name of the column that holds this part of the observations."""
    return f"observations/{part}" if part else "observations"
