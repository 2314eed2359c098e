from __future__ import annotations

import pytest

from tools.bench.peers.figures import OURS, compare, format_comparison
from tools.bench.report import Spread

SPEEDS = {
    OURS: [900.0, 1000.0, 1200.0],
    "slow": [100.0, 100.0, 120.0],
    "fast": [450.0, 500.0, 400.0],
}


def test_the_best_peer_has_the_largest_median() -> None:
    comparison = compare({**SPEEDS, "lucky once": [300.0, 440.0, 800.0]})
    assert comparison.best_peer == "fast"


def test_ratios_compare_within_a_repetition() -> None:
    comparison = compare(SPEEDS)
    assert comparison.speeds[OURS] == Spread(1000, 900, 1200)
    assert comparison.ratios == {"slow": Spread(10, 9, 10), "fast": Spread(2, 2, 3)}


def test_repetitions_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare({OURS: [1.0, 2.0], "other": [1.0]})


def test_the_table_has_the_fastest_peer_first() -> None:
    lines = format_comparison(compare(SPEEDS)).splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == [OURS, "fast", "slow"]
    assert lines[-1] == f"{OURS} / best peer (fast): 2.00 (2.00–3.00)"
