"""The check for GPU machines runs on a CPU with tiny sizes, and its full steps are well formed."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from seed.config.loading import parse_command_line
from seed.contract.loading import load_algorithm_config
from tools.bench import latency, synthetic
from tools.gpu_check import asserts
from tools.gpu_check.__main__ import Step, main, make_steps, run_step

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", asserts.CHECKS)
def test_every_assert_holds_on_a_cpu(name: str) -> None:
    # In a thread of its own, as it sets the thread's stream and number of CPU threads.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asserts.CHECKS[name], torch.device("cpu"), True).result()


def test_repeated_draws_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.fill_(0.5))
    with pytest.raises(AssertionError):
        asserts.draws(torch.device("cpu"), True)


def test_steps_run_as_processes_and_leave_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--steps"]
    assert main([*words, "weights", "failed_capture"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == ["machine", "weights", "failed_capture"]
    assert all(outcome["right"] for outcome in summary.values())
    assert "all of them whole" in (tmp_path / "weights.txt").read_text()
    assert capsys.readouterr().out.count("right") == 3


def test_without_the_device_nothing_else_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device", "nosuch", "--tiny", "--out", str(tmp_path)]) == 1
    assert list(json.loads((tmp_path / "summary.json").read_text())) == ["machine"]


@pytest.mark.parametrize(
    ("step", "code", "right"),
    [
        (Step("done", 60, ("-c", "print('well')"), said="well"), 0, True),
        (Step("silent", 60, ("-c", ""), said="well"), 0, False),
        (Step("failed", 60, ("-c", "raise SystemExit(3)")), 3, False),
        (Step("meant", 60, ("-c", "raise SystemExit(2)"), 2), 2, True),
        (Step("stuck", 0.5, ("-c", "import time; time.sleep(1000)")), 124, False),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else "",
)
def test_a_step_ends_as_it_should_or_not(
    tmp_path: Path, step: Step, code: int, right: bool
) -> None:
    outcome = run_step(step, tmp_path)
    assert (outcome.code, outcome.right) == (code, right)


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_steps_arguments_are_understood(device: str, tiny: bool, tmp_path: Path) -> None:
    steps = make_steps(device, tiny=tiny, out=tmp_path)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert sum(step.limit_s for step in steps) < 1500
    for step in steps:
        module, *words = step.words[1:]
        if module.startswith("tools.bench"):
            # Where there is no GPU they refuse it.
            words = ["cpu" if word == "cuda" else word for word in words]
        if module == "seed.run.main":
            command = parse_command_line(list(words), load_algorithm_config)
            assert command.config.learner.device == device
        elif module == "tools.bench.synthetic":
            synthetic.make_parser().parse_args(words)
        elif module == "tools.bench.latency":
            latency.make_parser().parse_args(words)
        elif module == "tools.gpu_check.asserts":
            assert words[0] in asserts.CHECKS
        elif module == "pytest":
            assert all((ROOT / word).exists() for word in words if word.endswith(".py"))
        else:
            assert step.name == "machine", sys.executable
