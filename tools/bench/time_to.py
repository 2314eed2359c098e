"""How long does training take until its mean return is good? In minutes, and in frames.

    python -m tools.bench.time_to 18 runs/pong_1 runs/pong_2 runs/pong_3

Reads the `metrics.jsonl` of runs that are over, or still go on: the first line whose
`episode_return_mean`, over the newest 100 episodes, is at least the return asked for. Time is that
of training, over all starts of the run; frames count action repeat.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.report import Results, run_command, spread, start_parser
from tools.watching import read_metrics

# Episodes that a mean is of; before there are so many, a few lucky ones would do.
_EPISODES = 100


def find_reached(lines: Sequence[dict[str, Any]], wanted: float, metric: str) -> dict[str, Any]:
    """Returns `minutes` and `env_frames` of the first line that has the return; None for never."""
    for line in lines:
        value = line.get(metric)
        if value is not None and value >= wanted and line["episode_return_count"] >= _EPISODES:
            return {"minutes": line["time_s"] / 60, "env_frames": line["env_frames"]}
    return {"minutes": None, "env_frames": None}


def make_rows(figures: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The cells of every run, and of all together where each has come so far."""
    rows = []
    for run, of_run in figures.items():
        never = of_run["minutes"] is None
        cells = ["-", "-"] if never else [
            f"{of_run['minutes']:.1f}", f"{of_run['env_frames']:,}"
        ]  # fmt: skip
        rows.append([run, *cells])
    if all(of_run["minutes"] is not None for of_run in figures.values()):
        minutes, frames = (
            spread([of_run[name] for of_run in figures.values()])
            for name in ("minutes", "env_frames")
        )
        rows.append(["median (low–high)", minutes.text("{:.1f}"), frames.text()])
    return rows


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("time_to", __doc__)
    parser.add_argument("wanted", metavar="RETURN", type=float, help="mean return to be reached")
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--metric", default="episode_return_mean",
                        help="or evaluation_return_mean")  # fmt: skip
    return parser


def measure_all(options: argparse.Namespace) -> Results:
    """Looks into every run."""
    figures = {
        str(run): find_reached(read_metrics(run), options.wanted, options.metric)
        for run in options.runs
    }
    header = (f"{options.metric} >= {options.wanted:g}", "minutes", "frames")
    return Results(header, make_rows(figures), {"runs": figures})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
