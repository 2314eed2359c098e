"""The picture of a run: what its axes say, and what is said where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot

from seed.config.loading import to_toml
from seed.config.schema import AtariConfig, Config, EnvironmentConfig
from tools import plot_curve

ATARI = EnvironmentConfig(kind="atari", id="pong", atari=AtariConfig(action_repeat=4))


def make_run(folder: Path, environment: EnvironmentConfig, *returns: float | None) -> Path:
    """A run's folder, as a learner that is still writing its last line has it."""
    folder.mkdir()
    config = Config(environment=environment, algorithm=EnvironmentConfig())
    (folder / "config.toml").write_text(to_toml(config))
    lines: list[dict[str, Any]] = [
        {"env_frames": 100 * index, "time_s": 60.0 * index, "episode_return_mean": value}
        for index, value in enumerate(returns)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"env_frames": 1')
    return folder


def plot(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["plot_curve.py", *map(str, arguments)])
    plot_curve.main()


@pytest.mark.parametrize(
    ("environment", "label"),
    [
        (ATARI, "million frames (4 per step)"),
        (EnvironmentConfig(frames_per_step=3), "million frames (3 per step)"),
        (EnvironmentConfig(), "million frames"),
    ],
)
def test_the_axis_says_what_frames_are_in_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: EnvironmentConfig, label: str
) -> None:
    run = make_run(tmp_path / "run", environment, None, 1.0, 2.0)
    plot(monkeypatch, run, tmp_path / "out" / "curve.png")
    assert (tmp_path / "out" / "curve.png").stat().st_size > 0
    assert pyplot.gcf().axes[0].get_xlabel() == label
    pyplot.close()


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path
) -> str:
    with pytest.raises(SystemExit) as ended:
        plot(monkeypatch, run, run / "curve.png")
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_drawn_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(monkeypatch, capsys, tmp_path / "nowhere")
    assert "metrics.jsonl: No such file or directory; expected the folder of a run" in said
    run = make_run(tmp_path / "run", ATARI, None)
    assert "no episode has ended yet" in refusal(monkeypatch, capsys, run)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "is not installed: pip install matplotlib" in refusal(monkeypatch, capsys, run)
