"""From whole pages to the unrolls that the learner sees, copied out of the columns.

An unroll is a page, the first row of its successor (for the bootstrap value) and, as context, the
last rows of its predecessor (burn-in, frame stacks, the previous action).
"""

from __future__ import annotations

import torch
from torch import Tensor

from seed.store.columns import AGENT_STATES, Columns
from seed.store.layout import StoreLayout, observation_column
from seed.store.pages import Links
from seed.store.rows import Rows, Unroll


def gather(columns: Columns, layout: StoreLayout, pages: Links) -> Unroll:
    """The unrolls of B pages, with burn-in and frame stacks."""
    rows, links = _unroll_rows(columns, layout, pages, layout.context_rows)
    index = rows[layout.context_rows - layout.burn_in :]  # [K + T + 1, B] int64
    seen = index
    if layout.frame_stack > 1:
        ages = columns.copy_rows("ages", index)  # [K + T + 1, B] uint8
        windows = rows.unfold(0, layout.frame_stack, 1)[-len(index) :]
        # Rows back in time from a frame stack's oldest to its newest. [stack] int64
        back = torch.arange(layout.frame_stack - 1, -1, -1, device=columns.device)
        # [K + T + 1, B, stack] int64
        seen = torch.where(ages[..., None] >= back, windows, layout.zero_row)
    # Each page keeps the state from which its successor's burn-in starts or, without burn-in,
    # that of its own row 0.
    state_pages = links[:, 0 if layout.burn_in else 1]
    state_pages = torch.where(state_pages < 0, layout.num_pages, state_pages)
    return _make_unroll(
        columns,
        layout,
        rows[-len(index) - 1 :],
        {
            part: columns.copy_rows(
                observation_column(part), seen if layout.stack_shape(part) else index
            )
            for part in layout.observations
        },
        columns.tensors[AGENT_STATES].index_select(0, state_pages),
        layout.burn_in,
    )


def gather_without_observations(columns: Columns, layout: StoreLayout, pages: Links) -> Unroll:
    """What acting left behind in the unrolls of B pages.

    Burn-in, observations (no parts) and recurrent states (`[B, 0]`) are left out.
    """
    rows, links = _unroll_rows(columns, layout, pages, context=1)
    stateless = torch.empty(len(links), 0, device=columns.device)
    return _make_unroll(columns, layout, rows, {}, stateless, burn_in=0)


def _unroll_rows(
    columns: Columns, layout: StoreLayout, pages: Links, context: int
) -> tuple[Tensor, Tensor]:
    """Flat rows `[context + T + 1, B]` of these pages' unrolls, and the links `[B, 3]`."""
    length, device = layout.unroll_length, columns.device
    links = torch.as_tensor(pages, dtype=torch.int64, device=device).reshape(-1, 3)
    predecessor, page, successor = links.T
    within = torch.arange(length, device=device)[:, None]
    before = predecessor * length + within[length - context :]
    before = torch.where(predecessor < 0, layout.zero_row, before)
    return torch.cat([before, page * length + within, successor[None] * length]), links


def _make_unroll(
    columns: Columns,
    layout: StoreLayout,
    rows: Tensor,
    observations: dict[str, Tensor],
    agent_state: Tensor,
    burn_in: int,
) -> Unroll:
    """The unroll of flat rows `[1 + n, B]`, the first of which only has a previous action."""
    index = rows[1:]
    first = columns.copy_rows("ages", index) == 0
    previous = torch.where(first, layout.zero_row, rows[:-1])
    return Unroll(
        rows=Rows(
            observations=observations,
            previous_actions=columns.copy_rows("actions", previous),
            rewards=columns.copy_rows("rewards", index),
            terminated=columns.copy_rows("terminated", index),
            truncated=columns.copy_rows("truncated", index),
            first=first,
        ),
        actions=columns.copy_rows("actions", index),
        behaviour={
            name: columns.copy_rows(f"behaviour.{name}", index) for name in layout.behaviour
        },
        policy_versions=columns.copy_rows("policy_versions", index).long(),
        agent_state=agent_state,
        importance=torch.ones(index.shape[1], device=columns.device),
        burn_in=burn_in,
    )
