"""The synthetic measurement runs with real processes; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seed.config.loading import from_tables
from seed.contract.loading import load_algorithm_config
from tools.bench.processes import Window
from tools.bench.synthetic import (
    KINDS,
    client_command,
    learner_tables,
    main,
    make_parser,
    make_share_table,
    make_table,
    summarize,
)

TINY = (
    "--servers", "1", "--rows-per-message", "2", "--repetitions", "1", "--seconds", "0.1",
    "--warmup", "0.01", "--r2d2-unroll", "8", "--r2d2-batch", "2", "--lstm", "8",
)  # fmt: skip


def _window(rows_per_s: float, updates_per_s: float = 0.0, batch: float | None = None) -> Window:
    means = {} if batch is None else {"inference_batch_mean": batch}
    return Window(1.0, rows_per_s, updates_per_s, means, cores_used=0.5)


def test_real_processes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    assert main([*TINY, "--kinds", "echo", "r2d2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert set(figures["kinds"]) == {"echo", "r2d2"}
    assert figures["kinds"]["r2d2"]["rows_per_s"]["median"] > 0
    assert figures["kinds"]["r2d2"]["metrics"]["num_envs"] == 4
    assert figures["settings"]["rows_per_message"] == 2
    assert "torch" in figures["origin"]
    assert "r2d2" in capsys.readouterr().out


def test_real_environment_servers_are_measured() -> None:
    assert main([*TINY, "--kinds", "echo", "--clients", "real"]) == 0


def test_a_learner_that_dies_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--kinds", "null", "--override", "--inference.max-envs", "0"]) == 1
    error = capsys.readouterr().err
    assert "seed-learner (null) ended with exit code 2" in error
    assert "inference.max_envs = 0: expected at least 1" in error


def test_shares_of_the_echo_are_of_the_same_repetition() -> None:
    echoes = [_window(1000.0), _window(2000.0), _window(1000.0)]
    figures = summarize([_window(500.0, batch=8.0), _window(600.0, batch=16.0),
                         _window(800.0, batch=4.0)], echoes)  # fmt: skip
    assert figures["rows_per_s"].median == 600.0
    assert figures["of_echo"].median == 0.5
    assert (figures["of_echo"].low, figures["of_echo"].high) == (0.3, 0.8)
    assert figures["metrics"] == {"inference_batch_mean": 8.0}
    assert figures["cpu_us_per_row"].low == 0.5 / 800.0 * 1e6


def test_the_table_counts_frames_and_bytes() -> None:
    echo = [_window(10_000.0)]
    table = make_table({
        "echo": summarize(echo, echo),
        "vtrace": summarize([_window(1000.0, 2.5, batch=64.0)], echo),
        "alone": summarize([_window(1000.0)], []),
    })  # fmt: skip
    lines = [line.split() for line in table.splitlines()]
    assert lines[2][:5] == ["echo", "10,000", "(10,000–10,000)", "40,000", "70.6"]
    assert lines[3] == [
        "vtrace", "1,000", "(1,000–1,000)", "4,000", "7.1", "0.100", "(0.100–0.100)", "500.0",
        "64", "2.50",
    ]  # fmt: skip
    assert lines[4][5:] == ["-", "500.0", "-", "-"]


def test_shares_of_a_threads_time_are_shown_where_they_are_known() -> None:
    figures: dict[str, dict[str, Any]] = {
        "echo": {"metrics": {}},
        "null": {"metrics": {"inference_share_store": 0.25, "inference_latency_p50_ms": 3.0}},
        "vtrace": {"metrics": {"inference_share_store": 0.1, "inference_share_paused": 0.5,
                               "learner_share_loss": 0.9}},
    }  # fmt: skip
    lines = make_share_table(figures, "inference").splitlines()
    assert [line.split() for line in (lines[0], *lines[2:])] == [
        ["inference", "thread", "store", "paused"],
        ["null", "25.0%", "-"],
        ["vtrace", "10.0%", "50.0%"],
    ]
    assert make_share_table({"echo": figures["echo"]}, "inference") == ""


def test_every_kind_has_room_for_all_clients() -> None:
    arguments = make_parser().parse_args(["--servers", "3", "--rows-per-message", "512"])
    for kind in KINDS[1:]:
        config = from_tables(learner_tables(kind, arguments), load_algorithm_config)
        assert config.inference.max_envs == 3 * 2 * 512
        assert config.inference.max_batch >= 512


def test_all_that_follows_overrides() -> None:
    arguments = make_parser().parse_args(["--batch", "3", "--override", "--inference.threads", "2"])
    assert arguments.override == ["--inference.threads", "2"]


def test_both_kinds_of_clients_hold_the_same_environments() -> None:
    real = client_command("tcp://x", make_parser().parse_args(["--clients", "real"]))
    assert real[real.index("--num-envs") + 1] == "64"
    fake = client_command("tcp://x", make_parser().parse_args([]))
    assert fake[-6:] == ["--servers", "1", "--groups", "2", "--rows", "32"]
