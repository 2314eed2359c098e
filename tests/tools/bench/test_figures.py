"""What commands make of their measurements, with made-up figures."""

from __future__ import annotations

import pytest

from tools.bench import latency, scaling, synthetic
from tools.bench.latency import Measured, Percentiles, join_reports
from tools.watching import Window


def _window(rows_per_s: float, batch: float, updates_per_s: float = 0.0) -> Window:
    means = {"inference_batch_mean": batch, "inference_share_store": 0.25, "num_envs": 8.0}
    return Window(1.0, rows_per_s, updates_per_s, means, cores_used=0.5)


def test_synthetic_compares_with_the_echo_of_the_same_repetition() -> None:
    echoes = [_window(1000.0, 0.0), _window(2000.0, 0.0), _window(1000.0, 0.0)]
    windows = [_window(500.0, 8.0), _window(600.0, 16.0, 2.5), _window(800.0, 4.0, 2.5)]
    figures = synthetic.summarize(windows, echoes)
    assert synthetic.make_row("vtrace", figures) == [
        "vtrace", "600 (500–800)", "2,400", "4.2", "0.500 (0.300–0.800)", "833.3 (625.0–1,000.0)",
        "8", "2.50",
    ]  # fmt: skip
    assert synthetic.make_row("alone", synthetic.summarize(windows[:1], []))[4] == "-"
    assert synthetic.describe_shares("null", figures["metrics"]) == [
        "null, inference thread: store 25.0%"
    ]


def test_latency_joins_processes_and_compares_within_a_repetition() -> None:
    reports = [
        {"rows": 16, "latencies_ms": [1.0, 3.0], "due_latencies_ms": [1.0, 9.0]},
        {"rows": 8, "latencies_ms": [2.0], "due_latencies_ms": [4.0]},
    ]
    forwards = [Percentiles(p50, 2 * p50, 3 * p50) for p50 in (2.0, 1.0, 4.0)]
    measured = [join_reports(reports, 16.0, 2.0, 12.0, forward) for forward in forwards]
    assert measured[0].answered_share == 0.75
    assert (measured[0].sent.p50, measured[0].sent.highest) == (2.0, 3.0)
    assert (measured[0].due.p50, measured[0].due.highest) == (4.0, 9.0)
    slower = Measured(16.0, 1.0, 12.0, Percentiles(5.0, 10.0, 20.0), measured[0].due, forwards[0])
    figures = latency.summarize([slower, *measured[1:]])
    # 10 / 2, 2.98 / 1, 2.98 / 4
    ratio = figures["p99_per_forward"]
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((0.745, 2.98, 5.0))
    cells = latency.make_row(0.9, figures)
    assert cells[:4] == ["90%", "16", "75.0%", "12.0"]
    assert cells[4] == "2.00 (2.00–5.00)"
    assert cells[-3] == "2.00 (1.00–4.00)"


def test_scaling_takes_memory_from_the_first_repetition() -> None:
    measured = [
        scaling.Measured(_window(rows_per_s, 64.0), 0.25, 0.125, memory)
        for rows_per_s, memory in ((1000.0, 10**8), (4000.0, 3 * 10**8), (2000.0, 2 * 10**8))
    ]
    point = scaling.Point("environments", scaling.LARGE, 2, 2, 32)
    assert scaling.make_row(scaling.summarize(point, measured)) == [
        "environments", "84x84", "128", "2", "32", "2,000 (1,000–4,000)", "250.0 (125.0–500.0)",
        "0.50", "64", "0.25", "0.12", "100",
    ]  # fmt: skip


def test_points_grow_in_one_thing_at_a_time() -> None:
    options = scaling.make_parser().parse_args(
        ["--environments", "16", "64", "--connections", "1", "8", "--middle", "32"]
    )
    points = scaling.make_points(options)
    assert [(p.part, p.side, p.environments, p.connections) for p in points] == [
        *(("environments", side, count, 2) for side in (84, 8) for count in (16, 64)),
        ("connections", 8, 32, 1), ("connections", 8, 32, 8),
    ]  # fmt: skip
