"""How far a run has come: a live line in a terminal, one line of the log at a time elsewhere."""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from seed.process.logs import PlainFormatter
from seed.run.metrics import Line

log = logging.getLogger(__name__)

# The log and the live line share it, so that neither writes into the other.
CONSOLE = Console(stderr=True)
# How far back a return is compared.
_A_WHILE_S = 600.0


def log_handler() -> logging.Handler:
    """A handler for the log; in a terminal one that leaves the progress line in its place."""
    if CONSOLE.is_terminal:
        rich = RichHandler(console=CONSOLE, show_path=False)
        rich.setFormatter(PlainFormatter())
        return rich
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def tell(text: str) -> None:
    """Says something with a command in it, which a terminal is given in one piece, to be copied."""
    if CONSOLE.is_terminal:
        CONSOLE.print(text, soft_wrap=True, highlight=False, markup=False)
    else:
        log.info("%s", text)


class Display:
    """One progress line on standard error where that is a terminal; else a log line each time."""

    def __init__(self, total_env_frames: int, env_frames: int) -> None:
        """Shows the line, `env_frames` of the way already gone."""
        self._progress = Progress(
            TextColumn("{task.percentage:.0f}%"),
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
        self._total_env_frames = total_env_frames
        self._trends = {"episode_return_mean": _Trend(), "evaluation_return_mean": _Trend()}
        self._still = True
        self._progress.start()

    def update(self, line: Line) -> None:
        """Shows a line of metrics."""
        evaluation = line["evaluation_return_mean"]
        # What a run is judged by: of evaluation environments, where there are any.
        judged = "episode_return_mean" if evaluation is None else "evaluation_return_mean"
        earlier = self._trends[judged].earlier(line["time_s"] or 0.0, line[judged])
        if self._progress.disable:
            self._log(line, earlier)
            return
        before = "" if earlier is None else f"{_text_of_return(earlier.value)} → "
        figures = [
            f"{_text(line['fps'], ',.0f')} fps",
            # 80 columns have no room for all of them.
            f"return {before if evaluation is None else ''}"
            f"{_text_of_return(line['episode_return_mean'])}",
            *([f"lag {_text(line['policy_lag_mean'], '.1f')}",
               f"batch {_text(line['inference_batch_mean'], '.0f')}"] if evaluation is None else
              [f"evaluation {before}{_text_of_return(evaluation)}"]),
        ]  # fmt: skip
        shown = "  ".join(figures)
        self._progress.update(self._task, completed=line["env_frames"] or 0, figures=shown)

    def _log(self, line: Line, earlier: _Earlier | None) -> None:
        """The same as a line of the log; of a run that stands still only the first one."""
        still, self._still = self._still, not line["fps"]
        if still and self._still:
            return
        frames, evaluation = line["env_frames"] or 0, line["evaluation_return_mean"]
        figures = [
            f"{frames:,} frames ({frames / self._total_env_frames:.0%})",
            f"{_text(line['fps'], ',.0f')} fps",
            f"return {_text_of_return(line['episode_return_mean'])}",
            *([] if evaluation is None else [f"evaluation {_text_of_return(evaluation)}"]),
        ]
        if earlier is not None:
            figures[-1] += f" ({_text_of_return(earlier.value)} {_text_of_age(earlier.age_s)} ago)"
        log.info("%s", ", ".join([*figures, f"lag {_text(line['policy_lag_mean'], '.1f')}"]))

    def close(self) -> None:
        """Leaves the last line standing."""
        self._progress.stop()


class _Earlier(NamedTuple):
    age_s: float
    value: float


class _Trend:
    """What a figure was a while ago."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, float]] = deque()

    def earlier(self, time_s: float, value: float | None) -> _Earlier | None:
        """Takes the present value; returns the one of ten minutes before, or the first one."""
        while len(self._known) > 1 and time_s - self._known[1][0] >= _A_WHILE_S:
            self._known.popleft()
        then = self._known[0] if self._known else None
        if value is not None:
            self._known.append((time_s, value))
        return None if then is None else _Earlier(time_s - then[0], then[1])


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _text_of_return(value: float | None) -> str:
    return _text(value, ".2f" if abs(value or 0.0) < 1000 else ".0f")


def _text_of_age(age_s: float) -> str:
    return f"{age_s:.0f} s" if age_s < 120 else f"{age_s / 60:.0f} min"
