"""A tiny real run of every command of tools/bench; times are not judged."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.bench.thread_times import GROUPS, INFERENCE, LEARNER
from tools.watching import usable_cores

COMMANDS = {
    "roofline": "core-microseconds", "synthetic": "rows a second", "latency": "milliseconds",
    "scaling": "CPU microseconds", "replay": "milliseconds", "peers.__main__": "steps a second",
    "time_to": "minutes",
}  # fmt: skip
CATCH = str(Path(__file__).parents[3] / "configs" / "catch_vtrace.toml")
ATARI = str(Path(__file__).parents[3] / "configs" / "atari57_r2d2.toml")
ONE_CLIENT = ("--servers", "1", "--rows-per-message", "2", "--repetitions", "1")
ON_CPU = ("--inference.device", "cpu", "--learner.device", "cpu")
# 84 x 84 pixels, action, reward, terminated, truncated, age, policy version, two values of Q
ROW_NBYTES = 84 * 84 + 8 + 4 + 1 + 1 + 1 + 4 + 2 * 4
STATE_NBYTES = 4 * 2 * 512


def run(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """The figures that a command writes."""
    path = folder / "figures.json"
    before_override = words.index("--override") if "--override" in words else len(words)
    options = [*words[:before_override], "--json", str(path), *words[before_override:]]
    assert importlib.import_module(f"tools.bench.{name}").main(options) == 0
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


@pytest.mark.parametrize(("name", "unit"), COMMANDS.items())
def test_help_says_question_and_units(
    name: str, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"tools.bench.{name}").main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    command = f"python -m tools.bench.{name.removesuffix('.__main__')}"
    assert said.startswith(f"usage: {command}")
    question = said.partition("\n\n")[2].partition("\n\n")[0]
    assert "?" in question
    assert unit in said


@pytest.mark.slow
def test_roofline(tmp_path: Path) -> None:
    figures = run("roofline", tmp_path, CATCH, "--repetitions", "1", "--seconds", "1",
                  "--override", *ON_CPU)  # fmt: skip
    [measured] = figures["runs"]
    assert measured["command"] == [CATCH, *ON_CPU]
    summary = {name: figure["median"] for name, figure in measured["summary"].items()}
    assert min(summary.values()) > 0
    bare_us = summary["e_us"] + summary["i_us"] + summary["l_us"]
    assert summary["roofline_steps_per_s"] == pytest.approx(1e6 * len(usable_cores()) / bare_us)
    assert summary["fps"] == summary["steps_per_s"]
    cores = measured["repetitions"][0]["cores"]
    assert set(cores) == {*GROUPS, "idle", "other programs"}
    assert min(cores[INFERENCE], cores[LEARNER], cores["main threads"]) > 0
    # To within the ticks of the clocks.
    assert sum(cores.values()) == pytest.approx(len(usable_cores()), rel=0.1)


def test_synthetic(tmp_path: Path) -> None:
    figures = run("synthetic", tmp_path, *ONE_CLIENT, "--kinds", "echo", "r2d2", "--seconds", "0.1",
                  "--warmup", "0.01", "--r2d2-unroll", "8", "--r2d2-batch", "2",
                  "--lstm", "8")  # fmt: skip
    assert set(figures["kinds"]) == {"echo", "r2d2"}
    assert figures["kinds"]["r2d2"]["of_echo"]["median"] > 0
    assert figures["kinds"]["r2d2"]["metrics"]["num_envs"] == 4
    assert figures["settings"]["rows_per_message"] == 2


def test_a_learner_that_dies_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    synthetic = importlib.import_module("tools.bench.synthetic")
    words = ["--kinds", "null", "--override", "--inference.max-envs", "0"]
    assert synthetic.main([*ONE_CLIENT, *words]) == 1
    error = capsys.readouterr().err
    assert "seed-learner (null) ended with exit code 2" in error
    assert "inference.max_envs = 0: expected at least 1" in error


@pytest.mark.slow
def test_latency(tmp_path: Path) -> None:
    figures = run("latency", tmp_path, *ONE_CLIENT, "--groups", "2", "--loads", "0.2", "0.5",
                  "--seconds", "0.5", "--warmup", "0.01", "--forward-seconds", "0.01")  # fmt: skip
    highest = figures["highest_rows_per_s"]["median"]
    assert [load["load"] for load in figures["loads"]] == [0.2, 0.5]
    for load in figures["loads"]:
        assert load["offered_rows_per_s"] == pytest.approx(load["load"] * highest)
        assert 0 < load["sent_ms"]["p50"]["median"] <= load["sent_ms"]["p99"]["median"]
        assert load["sent_ms"]["p50"]["median"] <= load["due_ms"]["highest"]["median"]
        assert 2 <= load["batch_rows"]["median"] <= 4
        assert load["forward_ms"]["p50"]["median"] > 0


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    figures = run("scaling", tmp_path, "--parts", "connections", "--connections", "3",
                  "--middle", "8", "--repetitions", "2", "--seconds", "0.1",
                  "--warmup", "0.01")  # fmt: skip
    [point] = figures["points"]
    assert (point["connections"], point["environments"], point["num_envs"]) == (3, 12, 12)
    assert min(point["rows_per_s"]["low"], point["cpu_us_per_row"]["low"]) > 0
    assert point["memory_bytes"] > 2**20


def test_replay(tmp_path: Path) -> None:
    figures = run("replay", tmp_path, "--config", ATARI, "--rows", "800", "--repetitions", "2",
                  "--items", "10", "--override", "--learner.unroll-length", "8",
                  "--learner.burn-in", "4", "--learner.batch-size", "3")  # fmt: skip
    measured = figures["measured"]
    assert (measured["rows"], measured["row_nbytes"]) == (800, ROW_NBYTES)
    assert measured["states_nbytes"] == 100 * STATE_NBYTES
    parts = ("rows_nbytes", "states_nbytes", "other_pages_nbytes")
    # And two rows of zeros.
    zeros = 2 * (ROW_NBYTES + STATE_NBYTES)
    assert measured["store_nbytes"] == sum(measured[part] for part in parts) + zeros
    assert figures["times"]["replay"]["a batch"]["low"] > 0
    # previous action, reward, three flags, action, behaviour, policy version
    rest = 8 + 4 + 3 + 8 + 2 * 4 + 8
    for stack in (1, 4):
        rows_nbytes = 3 * (4 + 8 + 1) * (stack * 84 * 84 + rest)
        gather = figures["times"][f"stack of {stack}"]
        assert gather["nbytes"] == rows_nbytes + 3 * (STATE_NBYTES + 4)
        assert gather["a gather"]["low"] > 0
    assert figures["rounds"]["10"]["round"]["low"] > 0


def test_peers(tmp_path: Path) -> None:
    marks = "from tools.bench.peers.marks import print_mark\nimport time\n"
    train = f"{marks}for n in range(10**6): print_mark(n); time.sleep(0.001)"
    figures = run("peers.__main__", tmp_path, "--peer", f'fast={sys.executable} -c "{train}"',
                  "--repetitions", "1", "--seconds", "0.2", "--override", "--network.torso",
                  "impala_shallow", "--local.envs-per-server", "4", "--learner.batch-size", "1",
                  "--local-envservers", "1", *ON_CPU)  # fmt: skip
    assert set(figures["comparison"]) == {"seed-learner", "fast"}
    assert figures["comparison"]["fast"]["steps_per_s"]["median"] > 0
    assert figures["comparison"]["seed-learner"]["ratio"]["median"] == 1


def test_time_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [(60, 100, 19.0, 99), (120, 200, None, 150), (180, 300, 17.5, 200), (240, 400, 18, 300)]
    for run_dir in ("good", "better", "never"):
        (tmp_path / run_dir).mkdir()
        (tmp_path / run_dir / "metrics.jsonl").write_text("".join(
            json.dumps({
                "time_s": time_s / (1 + (run_dir == "better")), "env_frames": frames,
                "episode_return_mean": mean if mean is None or run_dir != "never" else mean - 9,
                "episode_return_count": count,
            }) + "\n"
            for time_s, frames, mean, count in lines
        ))  # fmt: skip
    runs = [str(tmp_path / run_dir) for run_dir in ("good", "better", "never")]
    figures = run("time_to", tmp_path, "18", *runs)["runs"]
    assert list(figures.values()) == [
        {"minutes": 4.0, "env_frames": 400}, {"minutes": 2.0, "env_frames": 400},
        {"minutes": None, "env_frames": None},
    ]  # fmt: skip
    assert "median" not in capsys.readouterr().out
    run("time_to", tmp_path, "18", *runs[:2])
    assert "3.0 (2.0–4.0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("roofline", ("nowhere.toml",), "nowhere.toml: there is no such file"),
        ("roofline", (CATCH, "--override", "--local-envservers", "0"), "local_envservers = 0"),
        ("roofline", (CATCH, "--override", "--inference.max-envs", "16"), "max_envs = 16"),
        ("roofline", (CATCH, "--override", "--environment.id", "nowhere:make"), "nowhere"),
        ("roofline", (CATCH, "--override", "--learner.device", "cpu:x"), "device = 'cpu:x'"),
        ("replay", ("--config", ATARI, "--rows", "79"), "--rows = 79: expected at least the 80"),
        ("replay", ("--config", ATARI, "--device", "cpu:x"), "--device = 'cpu:x'"),
        ("replay", ("--config", CATCH), "replay.capacity_rows = 0"),
        ("latency", ("--loads", "1.1"), "at most 1"),
        ("peers.__main__", ("--peer", "python"), "expected NAME=COMMAND"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    name: str, words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"tools.bench.{name}").main(words)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err
