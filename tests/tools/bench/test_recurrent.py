"""The measurement of the LSTM runs, and what it compares is equal; times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tools.bench.recurrent import Shape, main, make_cores


def test_every_shape_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    shapes = ("--shape", "3", "2", "4", "5", "--shape", "1", "2", "3", "4")
    options = ("--seconds", "0.001", "--repetitions", "2", "--json", str(path))
    assert main([*shapes, *options]) == 0
    figures = json.loads(path.read_text())
    assert figures["settings"] == {
        "shape": [[3, 2, 4, 5], [1, 2, 3, 4]], "seconds": 0.001, "repetitions": 2,
        "device": "cpu", "bfloat16": False,
    }  # fmt: skip
    assert figures["origin"]["torch"] == torch.__version__
    assert [(row["shape"]["length"], row["kind"]) for row in figures["rows"]] == [
        (3, "forward"), (3, "backward"), (1, "forward"),
    ]  # fmt: skip
    for row in figures["rows"]:
        plain, sequence = row["plain_rows_per_s"], row["sequence_rows_per_s"]
        assert 0 < plain["low"] <= plain["median"] <= plain["high"]
        assert row["ratio"] == sequence["median"] / plain["median"]


def test_both_compute_the_same() -> None:
    cores = make_cores(Shape(6, 3, 4, 5), torch.device("cpu"))
    assert set(cores) == {"plain", "sequence"}
    first = torch.rand(6, 3) < 0.3
    features, state = torch.randn(6, 3, 4), torch.randn(3, 10)
    found = []
    for core in cores.values():
        outputs, new_state = core(features, first, state)
        loss = outputs.square().sum() + new_state.sum()
        found.append((outputs, new_state, *torch.autograd.grad(loss, list(core.parameters()))))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--shape", "0", "1", "1", "1"), "0: expected a whole number of at least 1"),
        (("--device", "cpu:x"), "argument --device: device = 'cpu:x': no such device here"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert expected in capsys.readouterr().err
