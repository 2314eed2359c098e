"""What the measurement makes of its repetitions: the best peer, ratios, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tools.bench.report import Spread, format_table, spread

OURS = "seed-learner"


class Comparison(NamedTuple):
    """All repetitions, in short.

    Attributes:
        speeds: Steps per second by name, ours with it.
        best_peer: The name of the peer with the largest median.
        ratios: Ours / each peer, by name; a repetition with the same repetition.
    """

    speeds: dict[str, Spread]
    best_peer: str
    ratios: dict[str, Spread]


def compare(steps_per_s: Mapping[str, Sequence[float]]) -> Comparison:
    """Compares `OURS` with at least one other, each measured equally often."""
    speeds = {name: spread(values) for name, values in steps_per_s.items()}
    ratios = {
        name: spread([ours / peer for ours, peer in zip(steps_per_s[OURS], values, strict=True)])
        for name, values in steps_per_s.items()
        if name != OURS
    }
    best_peer = max(ratios, key=lambda name: speeds[name].median)
    return Comparison(speeds, best_peer, ratios)


def format_comparison(comparison: Comparison) -> str:
    """Returns the table, ours first and then the fastest, and the ratio to the best peer."""
    peers = sorted(comparison.ratios, key=lambda name: comparison.speeds[name].median, reverse=True)
    rows = [
        [name, comparison.speeds[name].text(), comparison.ratios[name].text("{:.2f}")]
        for name in peers
    ]
    table = format_table(
        ["", "steps/s", f"{OURS} / it"], [[OURS, comparison.speeds[OURS].text(), ""], *rows]
    )
    ratio = comparison.ratios[comparison.best_peer].text("{:.2f}")
    return f"{table}\n\n{OURS} / best peer ({comparison.best_peer}): {ratio}"
