"""Tables, spreads and what is kept with the figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.bench.processes import ProcessFailed
from tools.bench.report import (
    Spread,
    add_override,
    at_least_zero,
    describe_origin,
    device_name,
    format_table,
    new_file,
    origin_line,
    positive,
    positive_seconds,
    run_plainly,
    settings_of,
    share,
    spread,
    start_parser,
    write_json,
)


def test_a_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([3.0, 1.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([1234.4, 1000.0, 2000.0]).text() == "1,234 (1,000–2,000)"
    assert spread([0.5]).text("{:.2f}") == "0.50 (0.50–0.50)"


def test_columns_are_as_wide_as_needed() -> None:
    assert format_table(["", "rows/s"], [["echo", "12"], ["null model", "1,234,567"]]) == (
        "               rows/s\n"
        "----------  ---------\n"
        "echo               12\n"
        "null model  1,234,567"
    )


def test_the_origin_names_hardware_and_versions() -> None:
    origin = describe_origin()
    assert origin["torch"] == torch.__version__
    assert origin["numpy"] == np.__version__
    assert origin["cores"] >= 1
    assert "gpu" not in origin
    assert f"commit {origin['commit']}" in origin_line(origin)
    assert origin_line({**origin, "gpu": "H200"}).split(";")[0].endswith("cores, H200")


def test_json_holds_origin_and_figures(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"cpu": "x"}, {"rows": {"null": spread([2.0, 4.0])}, "file": tmp_path})
    assert json.loads(path.read_text()) == {
        "origin": {"cpu": "x"},
        "rows": {"null": {"median": 3.0, "low": 2.0, "high": 4.0}},
        "file": str(tmp_path),
    }


def test_settings_leave_the_file_out() -> None:
    assert settings_of(argparse.Namespace(rows=3, json=Path("x"))) == {"rows": 3}


def test_counts_and_times_are_positive() -> None:
    assert positive("3") == 3
    assert positive_seconds("0.5") == 0.5
    for reader, text in (
        (positive, "0"), (positive, "1.5"), (positive_seconds, "0"), (positive_seconds, "inf"),
        (positive_seconds, "soon"),
    ):  # fmt: skip
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text}: expected "):
            reader(text)


def test_other_numbers_have_their_ranges() -> None:
    assert (at_least_zero("0"), share("1")) == (0.0, 1.0)
    for reader, text in ((at_least_zero, "-1"), (at_least_zero, "nan"), (share, "0"), (share, "2")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text}: expected "):
            reader(text)


def test_devices_must_be_there() -> None:
    assert device_name("cpu") == "cpu"
    with pytest.raises(argparse.ArgumentTypeError, match="device = 'cpu:x': no such device here"):
        device_name("cpu:x")


def test_a_file_must_have_a_folder(tmp_path: Path) -> None:
    assert new_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    for path in (tmp_path, tmp_path / "nowhere" / "x.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a file"):
            new_file(str(path))


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    parser = start_parser("some", "What it does.\n\n    a table   as it is\n")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    out = capsys.readouterr().out
    assert "usage: python -m tools.bench.some" in out
    assert "\n    a table   as it is\n" in out
    assert parser.parse_args(["--json", "x.json"]).json == Path("x.json")
    assert start_parser("some", "", package="tools").prog == "python -m tools.some"


def test_what_is_overridden_comes_last() -> None:
    parser = start_parser("some", "")
    add_override(parser, "the configuration")
    words = ["--json", "x.json", "--override", "--json", "--seed", "3"]
    assert parser.parse_args(words).override == ["--json", "--seed", "3"]
    assert parser.parse_args([]).override == []


def test_what_goes_wrong_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    assert run_plainly("x", lambda: None) == 0
    assert run_plainly("x", lambda: fail(ProcessFailed("the learner ended"))) == 1
    assert run_plainly("x", lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "x: the learner ended\nx: stopped\n"
