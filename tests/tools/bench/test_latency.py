"""The measurement of latencies runs with real processes; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.bench.latency import (
    Answered,
    Measured,
    Percentiles,
    join_reports,
    main,
    make_table,
    percentiles,
    summarize,
)


def _measured(p99: float, forward: float) -> Measured:
    return Measured(
        offered_rows_per_s=1000.0,
        answered=Answered(
            share=0.99,
            sent=Percentiles(5.0, p99, 20.0),
            due=Percentiles(6.0, p99 + 1, 21.0),
            batch_rows=12.0,
        ),
        forward=Percentiles(forward, 2 * forward, 3 * forward),
    )


def test_real_processes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    tiny = (
        "--loads", "0.2", "0.5", "--servers", "1", "--groups", "2", "--rows-per-message", "2",
        "--repetitions", "1", "--seconds", "0.5", "--warmup", "0.01", "--forward-seconds", "0.01",
    )  # fmt: skip
    assert main([*tiny, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    highest = figures["highest_rows_per_s"]["median"]
    assert [load["load"] for load in figures["loads"]] == [0.2, 0.5]
    for load in figures["loads"]:
        assert load["offered_rows_per_s"] == pytest.approx(load["load"] * highest)
        assert 0 < load["sent_ms"]["p50"]["median"] <= load["sent_ms"]["p99"]["median"]
        assert load["sent_ms"]["p50"]["median"] <= load["due_ms"]["highest"]["median"]
        assert 2 <= load["batch_rows"]["median"] <= 4
        assert load["forward_ms"]["p50"]["median"] > 0
    assert "20%" in capsys.readouterr().out


def test_percentiles() -> None:
    p50, p99, highest = percentiles([float(n) for n in range(101)])
    assert (p50, p99, highest) == (50.0, 99.0, 100.0)
    assert percentiles([3.0]) == (3.0, 3.0, 3.0)


def test_reports_of_all_processes_count_together() -> None:
    reports = [
        {"rows": 16, "latencies_ms": [1.0, 3.0], "due_latencies_ms": [1.0, 9.0]},
        {"rows": 8, "latencies_ms": [2.0], "due_latencies_ms": [4.0]},
    ]
    answered = join_reports(reports, due_rows=32, batch_rows=8.0)
    assert answered.share == 0.75
    assert (answered.sent.p50, answered.sent.highest) == (2.0, 3.0)
    assert (answered.due.p50, answered.due.highest) == (4.0, 9.0)
    assert answered.batch_rows == 8.0


def test_p99_is_compared_with_the_forward_pass_of_its_own_repetition() -> None:
    figures = summarize([_measured(10.0, 5.0), _measured(30.0, 10.0), _measured(8.0, 8.0)])
    ratio = figures["p99_per_forward"]
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 3.0)
    assert figures["sent_ms"]["p99"].median == 10.0
    assert figures["due_ms"]["p99"].median == 11.0
    assert figures["forward_ms"]["p50"].median == 8.0


def test_the_table_has_a_line_for_each_load() -> None:
    lines = make_table({0.9: summarize([_measured(10.0, 5.0)])}).splitlines()
    assert lines[2].split() == [
        "90%", "1,000", "99.0%", "12.0", "5.00", "10.00", "(10.00–10.00)", "20.00", "11.00",
        "5.00", "10.00", "2.00", "(2.00–2.00)",
    ]  # fmt: skip


@pytest.mark.parametrize("load", ["0", "1.1"])
def test_loads_are_shares(load: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--loads", load])
    assert "at most 1" in capsys.readouterr().err
