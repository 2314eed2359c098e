"""The measurement of scaling runs with real processes; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seed.wire.limits import MAX_GROUPS
from tools.bench.processes import Window, usable_cores
from tools.bench.scaling import (
    LARGE,
    SMALL,
    Measured,
    Point,
    main,
    make_parser,
    make_points,
    make_table,
    parse_registered,
    split,
    summarize,
)


def test_real_processes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    tiny = (
        "--parts", "cores", "--cores", "1", "--servers", "3", "--middle", "8",
        "--repetitions", "2", "--seconds", "0.1", "--warmup", "0.01",
    )  # fmt: skip
    assert main([*tiny, "--json", str(path)]) == 0
    [point] = json.loads(path.read_text())["points"]
    assert (point["part"], point["connections"], point["environments"]) == ("cores", 3, 12)
    assert point["rows_per_s"]["low"] > 0
    assert point["cpu_us_per_row"]["low"] > 0
    assert point["memory_bytes"] > 2**20
    assert "registered s" in capsys.readouterr().out


@pytest.mark.parametrize("connections", [1, 2, 64, 1000, 4000])
@pytest.mark.parametrize("environments", [16, 256, 4096])
def test_environments_are_split_over_connections(environments: int, connections: int) -> None:
    point = split("connections", SMALL, environments, connections)
    assert point.connections == connections
    assert environments <= point.environments <= 2 * max(environments, connections)
    assert 1 <= point.groups <= MAX_GROUPS
    assert point.rows <= 32 or point.groups == MAX_GROUPS
    # One group steps while the other's observations are on their way.
    assert point.groups > 1 or environments <= connections


def test_points_grow_in_one_thing_at_a_time() -> None:
    arguments = make_parser().parse_args(
        ["--environments", "16", "64", "--connections", "1", "8", "--cores", "1", "--middle", "32"]
    )
    points = make_points(arguments)
    assert [(p.part, p.side, p.environments, p.connections, p.cores) for p in points] == [
        ("environments", LARGE, 16, 2, 0), ("environments", LARGE, 64, 2, 0),
        ("environments", SMALL, 16, 2, 0), ("environments", SMALL, 64, 2, 0),
        ("connections", SMALL, 32, 1, 0), ("connections", SMALL, 32, 8, 0),
        ("cores", LARGE, 32, 2, 1),
    ]  # fmt: skip


def test_memory_is_of_the_first_repetition() -> None:
    def measured(rows_per_s: float, memory: int) -> Measured:
        return Measured(Window(1.0, rows_per_s, 0.0, {}, cores_used=0.5), 0.25, 0.125, memory)

    figures = summarize(
        Point("cores", LARGE, 2, 2, 32, 1),
        [measured(1000.0, 10**8), measured(4000.0, 3 * 10**8), measured(2000.0, 2 * 10**8)],
    )
    assert figures["memory_bytes"] == 10**8
    assert figures["rows_per_s"].median == 2000.0
    assert figures["cpu_us_per_row"].median == 250.0
    assert figures["environments"] == 128
    assert make_table([figures]).splitlines()[2].split() == [
        "cores", "84x84", "128", "2", "32", "1", "2,000", "(1,000–4,000)", "250.0",
        "(125.0–500.0)", "0.50", "-", "0.25", "(0.25–0.25)", "0.12", "100",
    ]  # fmt: skip


def test_the_time_of_registration_is_read() -> None:
    assert parse_registered("registered 64 in 0.125 s") == 0.125


def test_more_cores_than_there_are_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--cores", str(len(usable_cores()) + 1)])
    assert f"--cores {len(usable_cores()) + 1}: expected at most" in capsys.readouterr().err
