"""Tables, spreads and what is kept with the figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seed.config.schema import ConfigError
from tools import report
from tools.processes import ProcessFailed
from tools.report import (
    Results,
    Spread,
    add_override,
    new_file,
    positive,
    positive_seconds,
    run_command,
    share,
    spread,
    start_parser,
)


def test_a_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([3.0, 1.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([1234.4, 1000.0, 2000.0]).text() == "1,234 (1,000–2,000)"
    assert spread([0.5]).text("{:.2f}") == "0.50"


def test_results_stand_below_command_hardware_and_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, path = tmp_path / "gpus" / "0000:01:00.0", tmp_path / "figures.json"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   5\n")
    monkeypatch.setattr(report, "_GPUS", gpu.parent)
    monkeypatch.setattr("sys.orig_argv", ["/x/python", "-m", "some", "--name", "two words"])
    rows = [["echo", "12"], ["null model", "1,234,567"]]
    figures = {"rows": {"null": spread([2.0, 4.0])}, "file": tmp_path}
    results = Results(["", "rows/s"], rows, figures, ["", "a note"])
    assert run_command(start_parser("some", ""), lambda _: results, ["--json", str(path)]) == 0
    command, origin, *table = capsys.readouterr().out.splitlines()
    assert command.endswith("-m some --name 'two words'`")
    read = json.loads(path.read_text())
    assert f", NVIDIA H200; commit {read['origin']['commit']}, torch {torch.__version__}" in origin
    assert table == [
        "",
        "|            |    rows/s |",
        "| ---------- | --------: |",
        "| echo       |        12 |",
        "| null model | 1,234,567 |",
        "",
        "a note",
    ]
    del read["origin"]
    assert read == {
        "settings": {}, "file": str(tmp_path),
        "rows": {"null": {"median": 3.0, "low": 2.0, "high": 4.0}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ProcessFailed("the learner ended"), 1, "python -m tools.bench.x: the learner ended\n"),
        (KeyboardInterrupt(), 130, "python -m tools.bench.x: stopped\n"),
        (ConfigError("inference.max_envs = 0"), 2, "error: inference.max_envs = 0\n"),
    ],
)
def test_what_goes_wrong_is_said_plainly(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> Results:
        raise error

    try:
        ended: Any = run_command(start_parser("x", ""), fail, [])
    except SystemExit as exit_:
        ended = exit_.code
    assert ended == code
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize(
    ("reader", "good", "bad"),
    [
        (positive, ["3"], ["0", "1.5", "-1"]),
        (positive_seconds, ["0.5"], ["0", "inf", "nan", "soon"]),
        (share, ["1", "0.1"], ["0", "2", "nan"]),
    ],
)
def test_numbers_have_their_ranges(
    reader: Callable[[str], float], good: list[str], bad: list[str]
) -> None:
    assert [reader(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text}: expected "):
            reader(text)


def test_a_file_must_have_a_folder_and_what_is_overridden_comes_last(tmp_path: Path) -> None:
    assert new_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    for path in (tmp_path, tmp_path / "nowhere" / "x.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a file"):
            new_file(str(path))
    parser = start_parser("some", "")
    add_override(parser)
    words = ["--json", "x.json", "--override", "--json", "--seed", "3"]
    assert parser.parse_args(words).override == ["--json", "--seed", "3"]
    assert parser.parse_args([]).override == []
