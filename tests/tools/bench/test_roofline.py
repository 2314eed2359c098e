"""The measurement runs the real command beside bare work; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.bench.processes import usable_cores
from tools.bench.roofline import main
from tools.bench.thread_times import GROUPS, INFERENCE, LEARNER

CATCH = str(Path(__file__).parents[3] / "configs" / "catch_vtrace.toml")
TINY = ("--repetitions", "1", "--seconds", "1")
ON_CPU = ("--inference.device", "cpu", "--learner.device", "cpu")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    assert main([CATCH, *TINY, "--json", str(path), "--override", *ON_CPU]) == 0
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_everything_is_measured(figures: dict[str, Any]) -> None:
    [run] = figures["runs"]
    assert run["command"] == [CATCH, *ON_CPU]
    summary = {name: figure["median"] for name, figure in run["summary"].items()}
    assert min(summary.values()) > 0
    bare_us = summary["e_us"] + summary["i_us"] + summary["l_us"]
    assert summary["roofline_steps_per_s"] == pytest.approx(1e6 * len(usable_cores()) / bare_us)
    assert summary["fps"] == summary["steps_per_s"]


def test_cores_are_accounted_for(figures: dict[str, Any]) -> None:
    [run] = figures["runs"]
    [repetition] = run["repetitions"]
    cores = repetition["cores"]
    assert set(cores) == {*GROUPS, "idle", "other programs"}
    assert min(cores[INFERENCE], cores[LEARNER], cores["main threads"]) > 0
    # To within the ticks of the clocks.
    assert sum(cores.values()) == pytest.approx(len(usable_cores()), rel=0.1)


def test_the_settings_are_kept(figures: dict[str, Any]) -> None:
    settings = figures["settings"]
    assert (settings["repetitions"], settings["seconds"], settings["batch"]) == (1, 1.0, None)
    assert figures["origin"]["cores"] == len(usable_cores())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("nowhere.toml",), "nowhere.toml: there is no such file"),
        (("--seconds", "0"), "more than 0 seconds"),
        ((CATCH, "--override", "--local-envservers", "0"), "local_envservers = 0"),
        ((CATCH, "--override", "--inference.max-envs", "16"), "inference.max_envs = 16"),
        ((CATCH, "--override", "--environment.id", "nowhere:make"), "nowhere"),
        ((CATCH, "--override", "--learner.device", "cpu:x"), "learner.device = 'cpu:x'"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert expected in capsys.readouterr().err
