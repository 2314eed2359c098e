"""The live line in a terminal: time left, fps, returns, lag, batch size."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from seed.metrics import Line

# The log and the live line share it, so that neither writes into the other.
CONSOLE = Console(stderr=True)


class Display:
    """One progress line on standard error; nothing where that is not a terminal."""

    def __init__(self, total_env_frames: int, env_frames: int) -> None:
        """Shows the line, `env_frames` of the way already gone."""
        self._progress = Progress(
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[figures]}"),
            console=CONSOLE,
            disable=not CONSOLE.is_terminal,
            # Lines come as seldom as once per log_interval_s: rich's 30 s would see none of them.
            speed_estimate_period=3600,
        )
        self._task = self._progress.add_task(
            "", total=total_env_frames, completed=env_frames, figures="waiting"
        )
        self._progress.start()

    def update(self, line: Line) -> None:
        """Shows a line of metrics."""
        evaluation = line["evaluation_return_mean"]
        figures = [
            f"{_text(line['fps'], ',.0f')} fps",
            f"return {_text_of_return(line['episode_return_mean'])}",
            "" if evaluation is None else f"evaluation {_text_of_return(evaluation)}",
            f"lag {_text(line['policy_lag_mean'], '.1f')}",
            # 80 columns have no room for both.
            f"batch {_text(line['inference_batch_mean'], '.0f')}" if evaluation is None else "",
        ]
        shown = "  ".join(filter(None, figures))
        self._progress.update(self._task, completed=line["env_frames"] or 0, figures=shown)

    def close(self) -> None:
        """Leaves the last line standing."""
        self._progress.stop()


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _text_of_return(value: float | None) -> str:
    return _text(value, ".2f" if abs(value or 0.0) < 1000 else ".0f")
