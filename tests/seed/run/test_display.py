"""The live line, all there in a terminal of 80 columns, and the lines of the log elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from seed.run import display
from seed.run.display import Display
from seed.run.metrics import Line

LINE: Line = {
    "time_s": 0.0,
    "env_frames": 250,
    "fps": 1234567.8,
    "episode_return_mean": -20.25,
    "evaluation_return_mean": None,
    "policy_lag_mean": 1.26,
    "inference_batch_mean": 31.6,
}
UNKNOWN: Line = {**dict.fromkeys(LINE), "env_frames": 0}


class Screen:
    """A console that writes into a text, with a clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.written = io.StringIO()
        self.now_s = 0.0
        console = Console(file=self.written, get_time=lambda: self.now_s, **options)
        monkeypatch.setattr(display, "CONSOLE", console)

    def last_line(self) -> str:
        """What the terminal shows at the end."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.written.getvalue())
        return [line for line in re.split(r"[\r\n]+", plain) if line.strip()][-1]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal of 80 columns."""
    return Screen(
        monkeypatch, force_terminal=True, force_interactive=True, width=80, height=25,
        color_system=None, _environ={},
    )  # fmt: skip


def log_of(caplog: pytest.LogCaptureFixture, *shown: Line) -> list[str]:
    """The log's lines of a run of a million frames."""
    caplog.set_level("INFO")
    display_ = Display(1_000_000, 0)
    for line in shown:
        display_.update(line)
    display_.close()
    return caplog.messages


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file or a process manager reads; the live line writes nothing."""
    screen = Screen(monkeypatch, force_terminal=False)
    yield
    assert screen.written.getvalue() == ""


def test_without_a_terminal_all_goes_into_the_log(
    no_terminal: None, caplog: pytest.LogCaptureFixture
) -> None:
    later = {**LINE, "time_s": 60.0, "env_frames": 123_456, "episode_return_mean": -17.0}
    evaluated = {**later, "env_frames": 900_000, "evaluation_return_mean": 18.7}
    last = {**evaluated, "time_s": 240.0, "env_frames": 10**6, "evaluation_return_mean": 19.7}
    assert log_of(caplog, LINE, later, evaluated, last) == [
        "250 frames (0%), 1,234,568 fps, return -20.25, lag 1.3",
        "123,456 frames (12%), 1,234,568 fps, return -17.00 (-20.25 60 s ago), lag 1.3",
        "900,000 frames (90%), 1,234,568 fps, return -17.00, evaluation 18.70, lag 1.3",
        "1,000,000 frames (100%), 1,234,568 fps, return -17.00, evaluation 19.70 (18.70 3 min "
        "ago), lag 1.3",
    ]
    display.tell("to go on: %s")
    assert caplog.messages[-1] == "to go on: %s"


# A learner that waits for days for environment servers fills no disk.
def test_without_a_terminal_a_run_that_stands_still_is_told_once(
    no_terminal: None, caplog: pytest.LogCaptureFixture
) -> None:
    still: Line = {**LINE, "fps": 0.0}
    said = log_of(caplog, still, LINE, still, still, still, LINE)
    assert [line.split(", ")[1] for line in said] == ["1,234,568 fps", "0 fps", "1,234,568 fps"]


# The default of 30 s would forget a line before the next one comes, minutes apart.
@pytest.mark.parametrize(("apart_s", "left"), [(10.0, "0:00:10"), (600.0, "0:10:00")])
def test_the_line_has_every_figure(terminal: Screen, apart_s: float, left: str) -> None:
    shown = Display(1000, 0)
    for number in (1, 2, 3):
        terminal.now_s = number * apart_s
        shown.update({**LINE, "env_frames": 250 * number})
    shown.close()
    # The last quarter takes as long as the one before.
    assert terminal.last_line().split() == [
        "75%", left, "left", "1,234,568", "fps", "return", "-20.25", "→", "-20.25", "lag", "1.3",
        "batch", "32",
    ]  # fmt: skip


def at(minute: float, value: float) -> dict[str, float]:
    return {"time_s": 60.0 * minute, "episode_return_mean": value}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        # Evaluation's return takes the place of lag and batch.
        ([{"evaluation_return_mean": value} for value in (None, 3.0, 18.7)],
         "return -20.25  evaluation 3.00 → 18.70"),
        # A return is shown with the one of ten minutes before, or the first one.
        ([at(0, 0.0), at(1, 1.0)], "return 0.00 → 1.00  lag 1.3  batch 32"),
        ([at(0, 0.0), at(9, 9.0), at(10, 10.0)], "return 0.00 → 10.00  lag 1.3  batch 32"),
        ([at(0, 0.0), at(5, 5.0), at(9, 9.0), at(16, 16.0)],
         "return 5.00 → 16.00  lag 1.3  batch 32"),
        # Large ones are whole numbers.
        *(([{"episode_return_mean": value}], f"return {text}  lag 1.3  batch 32")
          for value, text in ((-999.994, "-999.99"), (999.0, "999.00"), (-1000.5, "-1000"),
                              (21_000.7, "21001"))),
        # What is not yet known is a dash.
        ([UNKNOWN], "– fps  return –  lag –  batch –"),
        ([], "waiting"),
    ],
)  # fmt: skip
def test_the_line_ends_with(terminal: Screen, changes: list[Line], shown: str) -> None:
    display_ = Display(1000, 400)
    for change in changes:
        display_.update({**LINE, **change})
    display_.close()
    assert terminal.last_line().rstrip().endswith(shown)
    # It begins where a resumed run does.
    assert changes or terminal.last_line().split()[0] == "40%"


# Lines as long as they get: nothing may be cut off or wrapped.
@pytest.mark.parametrize(
    ("evaluation", "end"),
    [(None, "return 999999 → 999999  lag 999.9  batch 4096"),
     (999_999.4, "return 999999  evaluation 999999 → 999999")],
)  # fmt: skip
def test_the_longest_lines_fit(terminal: Screen, evaluation: float | None, end: str) -> None:
    shown = Display(10**12, 0)
    for seconds in (1.0, 2.0):
        terminal.now_s = seconds
        line = {**LINE, "env_frames": int(seconds * 10**7), "episode_return_mean": 999_999.4}
        line |= {"inference_batch_mean": 4096.0, "policy_lag_mean": 999.9, "fps": 12_345_678.0}
        shown.update({**line, "evaluation_return_mean": evaluation})
    shown.close()
    assert len(terminal.last_line().rstrip()) <= 80
    assert terminal.last_line().rstrip().endswith(end)
    assert terminal.last_line().lstrip().startswith("0% 27:46:38 left")


# Broken into lines it could not be copied.
def test_a_command_is_in_one_piece_however_narrow_the_terminal(terminal: Screen) -> None:
    command = "to go on: seed-learner " + "--learner.batch-size 4 " * 9
    display.tell(command)
    assert terminal.written.getvalue() == command + "\n"
