"""The measurement beside a sleeper runs with real processes; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seed.config.checks import check
from seed.config.loading import from_tables
from seed.contract.loading import load_algorithm_config
from tools.bench.latency import Answered, Percentiles
from tools.bench.sleeper import learner_tables, main, make_parser, make_table, summarize


def _answered(p50: float, p99: float, share: float = 1.0) -> Answered:
    never = Percentiles(0.0, 0.0, 0.0)
    return Answered(share, sent=never, due=Percentiles(p50, p99, 2 * p99), batch_rows=8.0)


def _figures() -> dict[str, Any]:
    alone = [_answered(1.0, 2.0), _answered(2.0, 4.0), _answered(1.0, 5.0), _answered(1.0, 2.0)]
    beside = [_answered(2.0, 3.0), _answered(2.0, 4.0), _answered(1.0, 10.0, share=0.5)]
    return summarize(alone, beside)


def test_each_time_is_compared_with_the_time_alone_before_it() -> None:
    figures = _figures()
    ratio, control = figures["beside_ratio"]["p99"], figures["control_ratio"]["p99"]
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 1.5, 2.0)
    assert (control.low, control.median, control.high) == (0.4, 1.25, 2.0)
    assert figures["beside_ratio"]["p50"].high == 2.0
    assert figures["alone"]["due_ms"]["p99"].median == 3.0
    assert figures["beside"]["answered_share"].low == 0.5


def test_the_table_has_times_and_ratios() -> None:
    rows = [line.split() for line in make_table(_figures()).splitlines()]
    assert rows[3] == [
        "beside", "a", "sleeper", "100.0%", "(50.0%–100.0%)", "2.00", "(1.00–2.00)",
        "4.00", "(3.00–10.00)", "8.00", "(6.00–20.00)",
    ]  # fmt: skip
    assert [row[:4] for row in rows[4:]] == [
        ["beside", "/", "alone", "before"], ["alone", "/", "alone", "before"]
    ]  # fmt: skip


def test_real_environments_sleep_and_there_is_room_for_them() -> None:
    arguments = make_parser().parse_args(["--servers", "2", "--sleep-s", "3"])
    config = from_tables(learner_tables(arguments), load_algorithm_config)
    check(config)
    assert config.environment.kwargs["sleep_s"] == 3.0
    assert config.inference.max_envs > 2 * 8 * 8


def test_real_processes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    tiny = (
        "--servers", "1", "--rows-per-message", "2", "--messages-per-s", "50", "--sleep-s", "0.2",
        "--repetitions", "1", "--seconds", "0.5", "--warmup", "0.01",
    )  # fmt: skip
    assert main([*tiny, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    for kind in ("alone", "beside"):
        assert figures[kind]["answered_share"]["low"] > 0
        times_ms = figures[kind]["due_ms"]
        assert 0 < times_ms["p50"]["median"] <= times_ms["p99"]["median"]
    assert figures["beside_ratio"]["p99"]["median"] > 0
    assert figures["settings"]["sleep_s"] == 0.2
    assert "beside a sleeper" in capsys.readouterr().out
