"""The live line in a terminal: fps, return, lag, batch size, time left."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from seed.metrics import Line


class Display:
    """One progress line on standard error; nothing where that is not a terminal."""

    def __init__(self, total_env_frames: int, env_frames: int) -> None:
        """Shows the line, `env_frames` of the way already gone."""
        self._progress = Progress(
            BarColumn(24),
            TextColumn("{task.percentage:5.1f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(
            "", total=total_env_frames, completed=env_frames, figures="waiting for environments"
        )
        self._progress.start()

    def update(self, line: Line) -> None:
        """Shows a line of metrics."""
        figures = (
            f"{_text(line['env_frames'], ',.0f')} frames  {_text(line['fps'], ',.0f')} fps  "
            f"return {_text(line['episode_return_mean'], '.2f')}  "
            f"lag {_text(line['policy_lag_mean'], '.1f')}  "
            f"batch {_text(line['inference_batch_mean'], '.0f')}"
        )
        completed = line["env_frames"] or 0
        self._progress.update(self._task, completed=completed, figures=figures)

    def close(self) -> None:
        """Leaves the last line standing."""
        self._progress.stop()


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
