"""Draws a run's mean return over frames and over time, from its metrics.jsonl.

    python tools/plot_curve.py runs/pong_vtrace docs/results/pong_vtrace.png

Needs matplotlib: `pip install matplotlib`, or `make test`, which installs it.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

EVALUATION = "evaluation_return_mean"


def main() -> None:
    """Reads the run's folder and the picture's path from the command line."""
    parser = argparse.ArgumentParser(description="Draws a run's mean return as a PNG.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("picture", type=Path, help="where the PNG goes")
    arguments = parser.parse_args()
    try:
        lines = read_lines(arguments.run)
        frames_per_step = read_frames_per_step(arguments.run)
        draw(lines, frames_per_step, arguments.run.resolve().name, arguments.picture)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}; expected the folder of a run")
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is not installed: pip install matplotlib")
    except NothingToDraw:
        parser.error(f"{arguments.run}: no episode has ended yet")


class NothingToDraw(Exception):
    """A run of which no return is known."""


def read_lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of the run's metrics; raises OSError."""
    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def read_frames_per_step(run: Path) -> int:
    """Frames that one step of the run counts for; raises OSError."""
    environment = tomllib.loads((run / "config.toml").read_text())["environment"]
    atari = environment["kind"] == "atari"
    frames: int = environment["atari"]["action_repeat"] if atari else environment["frames_per_step"]
    return frames


def draw(lines: list[dict[str, Any]], frames_per_step: int, title: str, picture: Path) -> None:
    """Writes the mean return over million frames and over minutes.

    Training and, where there are any, evaluation environments have a curve each.

    Raises:
        NothingToDraw: where no episode has ended yet.
        ModuleNotFoundError: where there is no matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if all(line["episode_return_mean"] is None for line in lines):
        raise NothingToDraw
    figure, (by_frames, by_time) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for kind, name in (("training", "episode_return_mean"), ("evaluation", EVALUATION)):
        known = [line for line in lines if line.get(name) is not None]
        if known:
            returns = [line[name] for line in known]
            by_frames.plot([line["env_frames"] / 1e6 for line in known], returns, label=kind)
            by_time.plot([line["time_s"] / 60 for line in known], returns, label=kind)
    by_frames.set_xlabel(
        "million frames" + (f" ({frames_per_step} per step)" if frames_per_step > 1 else "")
    )
    by_frames.set_ylabel("mean return of the last episodes")
    by_time.set_xlabel("minutes")
    if len(by_frames.lines) > 1:
        by_frames.legend()
    figure.suptitle(title)
    for axes in (by_frames, by_time):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
