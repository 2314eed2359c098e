"""Draws a run's mean return over frames and over time, from its metrics.jsonl.

    python tools/plot_curve.py runs/pong_vtrace docs/results/pong_vtrace.png

Needs matplotlib, which the dev extra installs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

EVALUATION = "evaluation_return_mean"

def main() -> None:
    """Reads the run's folder and the picture's path from the command line."""
    parser = argparse.ArgumentParser(description="Draws a run's mean return as a PNG.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("picture", type=Path, help="where the PNG goes")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in (arguments.run / "metrics.jsonl").open()]
    if all(line["episode_return_mean"] is None for line in lines):
        parser.error(f"{arguments.run}: no episode has ended yet")
    draw(lines, arguments.run.name, arguments.picture)


def draw(lines: list[dict[str, Any]], title: str, picture: Path) -> None:
    """Writes the mean return over million frames and over minutes.

    Training and, where there are any, evaluation environments have a curve each.
    """
    figure, (by_frames, by_time) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for kind, name in (("training", "episode_return_mean"), ("evaluation", EVALUATION)):
        known = [line for line in lines if line.get(name) is not None]
        if known:
            returns = [line[name] for line in known]
            by_frames.plot([line["env_frames"] / 1e6 for line in known], returns, label=kind)
            by_time.plot([line["time_s"] / 60 for line in known], returns, label=kind)
    by_frames.set_xlabel("million frames (4 per step)")
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
