"""Whether unrolls of marked environments are what those environments made, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from seed.store.rows import Unroll
from tools.chaos.marks import EPISODE_ROW, HISTORY, LED_HERE, ROW


def find_wrong(unroll: Unroll, marks: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Which of B unrolls are wrong, by what is wrong with them.

    Args:
        unroll: Without burn-in.
        marks: What the environments wrote into these rows; see `tools.chaos.marks`, of which only
            the first four are looked at. `[T + 1, B, marks] int64`
        rewards: What the environments gave for these rows. `[T + 1, B]`

    Returns:
        For each rule, where it is broken. `[B] bool` each.
    """
    rows, actions = unroll.rows, unroll.actions
    history, row = marks[..., HISTORY], marks[..., ROW]
    episode_row, led_here = marks[..., EPISODE_ROW], marks[..., LED_HERE]
    first = rows.first
    ended = rows.terminated | rows.truncated
    moved = ~first[1:]
    return {
        "it mixes two histories": (history != history[:1]).any(0),
        "its rows are not contiguous": (row[1:] != row[:-1] + 1).any(0),
        "first does not mark episode starts": (first != (episode_row == 0)).any(0),
        "an episode's end and the next one's start differ": (ended[:-1] != first[1:]).any(0),
        "rewards of other rows": (rows.rewards != rewards).any(0),
        "actions of other rows": ((actions[:-1] != led_here[1:]) & moved).any(0),
        "previous actions of other rows": (rows.previous_actions != led_here.clamp(min=0)).any(0),
    }


class Ends:
    """Remembers where each history's newest unroll ended, so that no row is learned from twice."""

    def __init__(self) -> None:
        """No history yet."""
        self._ends: dict[int, int] = {}

    def find_overlapping(self, marks: Tensor, among: Tensor) -> Tensor:
        """Which unrolls begin before the last one of the same history ended. `[B] bool`

        Row T of an unroll is row 0 of the next, so those may be the same. Only unrolls `among`
        (`[B] bool`) are looked at, and remembered: the marks of the others are not to be trusted.
        """
        first, last = marks[0].tolist(), marks[-1].tolist()
        overlapping = torch.zeros_like(among)
        for b in among.nonzero()[:, 0].tolist():
            history = first[b][HISTORY]
            overlapping[b] = first[b][ROW] < self._ends.get(history, 0)
            self._ends[history] = last[b][ROW]
        return overlapping
