"""What every measurement reads, prints and keeps: options, one Markdown table, the origin of it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envservers.environments.group import InvalidEnvironment
from seed.config.schema import ConfigError
from tools.processes import ROOT, ProcessFailed
from tools.watching import usable_cores

_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclasses.dataclass(frozen=True)
class Spread:
    """Repetitions of one figure, of which the median is to be quoted."""

    median: float
    low: float
    high: float

    def text(self, form: str = "{:,.0f}") -> str:
        """`median (low–high)` with this format for each; the median alone where all agree."""
        median, low, high = (form.format(value) for value in dataclasses.astuple(self))
        return median if low == high else f"{median} ({low}–{high})"


def spread(values: Sequence[float]) -> Spread:
    """Median and range of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


class Results(NamedTuple):
    """What a measurement has found.

    Attributes:
        header: Titles of the table's columns.
        rows: Its cells.
        figures: All figures, for `--json`.
        notes: Lines below the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: dict[str, Any]
    notes: Sequence[str] = ()


def run_command(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Results],
    argv: Sequence[str] | None,
) -> int:
    """Reads the command line, measures, prints the table; returns the exit code.

    What goes wrong is said in plain words. Above the table stand command, hardware and commit.
    """
    arguments = parser.parse_args(argv)
    origin = describe_origin()
    print(f"`{origin['command']}`\n{origin_line(origin)}", flush=True)
    try:
        results = measure(arguments)
    except (ConfigError, InvalidEnvironment) as error:
        parser.error(str(error))
    except ProcessFailed as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return 130
    print("\n".join(["", format_table(results.header, results.rows), *results.notes]))
    if arguments.json is not None:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        found = {"origin": origin, "settings": settings, **results.figures}
        arguments.json.write_text(json.dumps(found, indent=2, default=_to_json) + "\n")
    return 0


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        """One line, its cells as wide as their columns."""
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(n) for cell, n in others)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def describe_origin() -> dict[str, Any]:
    """Where and how figures are measured: hardware, commit, versions, command, date."""
    gpus = [_find_line(path, "Model") for path in sorted(_GPUS.glob("*/information"))]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _find_commit(),
        "cpu": _find_line(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(usable_cores()),
        "gpus": gpus,
        "memory": _find_line(Path("/proc/meminfo"), "MemTotal"),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "pyzmq")},
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    }


def origin_line(origin: Mapping[str, Any]) -> str:
    """The same in one line, without the command."""
    hardware = ", ".join([origin["cpu"], f"{origin['cores']} cores", *origin["gpus"]])
    versions = f"torch {origin['torch']}, Python {origin['python']}"
    return f"{hardware}; commit {origin['commit']}, {versions}"


class _HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, and leaves the lines of the description as they are."""


def start_parser(
    name: str, text: str | None, package: str = "tools.bench"
) -> argparse.ArgumentParser:
    """The beginning of a command line, with `--json`; `text`, the module's own, is its help."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}.{name}", description=text, formatter_class=_HelpFormatter
    )
    parser.add_argument("--json", type=new_file, help="file for all figures")
    return parser


def add_times(
    parser: argparse.ArgumentParser,
    *,
    seconds: float,
    repetitions: int = 3,
    warmup: float | None = None,
) -> None:
    """Adds `--seconds`, `--repetitions` and, where it is given, `--warmup`, with these defaults."""
    add = parser.add_argument
    add("--seconds", type=positive_seconds, default=seconds, help="of each measured time")
    add("--repetitions", type=positive, default=repetitions, help="of everything, in turns")
    if warmup is not None:
        add("--warmup", type=positive_seconds, default=warmup, help="seconds before those measured")


def add_override(parser: argparse.ArgumentParser) -> None:
    """Adds `--override`, for options of seed-learner."""
    parser.add_argument(
        "--override", nargs=argparse.REMAINDER, default=[], metavar="...",
        help="all that follows overrides the configuration, as for seed-learner",
    )  # fmt: skip


def positive(text: str) -> int:
    """A count of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


def positive_seconds(text: str) -> float:
    """A finite time of more than 0 seconds, for argparse."""
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a finite time of more than 0 seconds")
    return float(text)


def share(text: str) -> float:
    """More than 0 and at most 1, for argparse."""
    if not 0 < _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0 and at most 1")
    return float(text)


def _number(text: str) -> float:
    """NaN, which no range has, where the text is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def new_file(text: str) -> Path:
    """A file that can be written, for argparse: it is, once everything has been measured."""
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file in a folder that there is")
    return path


def _to_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not for JSON")


def _find_commit() -> str:
    """The checkout's commit, with a plus where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _find_line(path: Path, name: str) -> str:
    """The value of the first `name : value` line of a file; empty without one."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
