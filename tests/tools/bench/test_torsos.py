"""The comparison of torsos: that each way computes what it says, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tools.bench.torsos import COMPILED, WAYS, Way, main, make_call, time_rows


def dtypes_of_products(way: Way, *, learning: bool) -> set[torch.dtype]:
    """What convolutions and products gave while one call ran."""
    given = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if getattr(func, "__name__", "") in ("conv2d", "linear"):
                given.add(result.dtype)
            return result

    call = make_call("impala_shallow", way, 2, learning=learning)
    with Watch():
        call()
    return given


@pytest.mark.parametrize("name", WAYS)
def test_ways_compute_in_the_precision_that_they_are_named_after(name: str) -> None:
    way = WAYS[name]
    expected = torch.bfloat16 if name.startswith("bfloat16") else torch.float32
    assert dtypes_of_products(way, learning=False) == {expected}
    if not way.rounded:
        assert dtypes_of_products(way, learning=True) == {expected}


def test_names_say_what_is_different() -> None:
    for name, way in {**WAYS, **COMPILED}.items():
        assert way.channels_last == ("channels last" in name)
        assert way.rounded == ("rounded" in name)
        assert way.compiled == ("compiled" in name)
        assert (way.threads == 2) == ("2 threads" in name)


def test_rows_of_all_counted_calls_count() -> None:
    calls: list[int] = []
    rate = time_rows(lambda: calls.append(1), rows=10, threads=1, seconds=1e-9)
    assert len(calls) == 2
    assert rate.by_clock > 0


def test_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--torso", "impala_shallow", "--act-rows", "2", "--learn-rows", "2"]
    assert main([*arguments, "--seconds", "1e-9", "--repetitions", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(file.read_text())["torsos"]["impala_shallow"]
    assert list(figures) == list(WAYS)
    assert all(name in printed for name in WAYS)
    assert set(figures["bfloat16, rounded weights"]) == {"act"}
    assert set(figures["bfloat16"]["learn"]) == {"by_clock", "by_cpu"}
