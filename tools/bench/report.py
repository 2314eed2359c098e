"""What every measurement reads, prints and keeps: options, tables, where figures come from."""

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
from typing import Any, TypeVar

from tools.bench.processes import ROOT, ProcessFailed, usable_cores

Number = TypeVar("Number", int, float)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Repetitions of one figure.

    Attributes:
        median: The figure to quote.
        low: The smallest.
        high: The largest.
    """

    median: float
    low: float
    high: float

    def text(self, form: str = "{:,.0f}") -> str:
        """`median (low–high)` with this format for each."""
        median, low, high = (form.format(value) for value in dataclasses.astuple(self))
        return f"{median} ({low}–{high})"


def spread(values: Sequence[float]) -> Spread:
    """Median and range of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns as wide as they need; the first to the left, the others to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]

    def line(cells: Sequence[str]) -> str:
        """One line, its cells as wide as their columns."""
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(n) for cell, n in others)])

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def describe_origin(device: str = "cpu") -> dict[str, Any]:
    """Where and how figures were measured: hardware, commit, versions, command, date.

    Args:
        device: "cpu", or "cuda…" where the GPU belongs to it.
    """
    origin: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _find_commit(),
        "cpu": _find_line(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(usable_cores()),
        "memory": _find_line(Path("/proc/meminfo"), "MemTotal"),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "pyzmq")},
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    }
    if device.startswith("cuda"):
        import torch

        origin["gpu"] = torch.cuda.get_device_name(device)
    return origin


def origin_line(origin: Mapping[str, Any]) -> str:
    """The same in one line, to be printed above a table."""
    gpu = f", {origin['gpu']}" if "gpu" in origin else ""
    return (
        f"{origin['cpu']}, {origin['cores']} cores{gpu}; commit {origin['commit']}, "
        f"torch {origin['torch']}, Python {origin['python']}"
    )


def write_json(path: Path, origin: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Writes both as one JSON object: the figures, and `origin` with where they come from."""
    text = json.dumps({"origin": origin, **figures}, indent=2, default=_to_json)
    path.write_text(text + "\n")


def start_parser(name: str, text: str, package: str = "tools.bench") -> argparse.ArgumentParser:
    """The beginning of a measurement's command line, with `--json`.

    Args:
        name: Of the module.
        text: Its docstring, which is what `--help` says.
        package: Which the module is in.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}.{name}", description=text, formatter_class=_HelpFormatter
    )
    parser.add_argument("--json", type=new_file, help="file for the figures, too")
    return parser


class _HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, and leaves the lines of the description as they are."""


def add_override(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--override`, for options of seed-learner, whose configuration is `what`."""
    parser.add_argument(
        "--override", nargs=argparse.REMAINDER, default=[], metavar="...",
        help=f"all that follows overrides {what}, as for seed-learner",
    )  # fmt: skip


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """A command line's values for the JSON file, but for the file's own name."""
    return {name: value for name, value in vars(arguments).items() if name != "json"}


def positive(text: str) -> int:
    """A count of at least 1, for argparse."""
    return _read(text, int, lambda count: count >= 1, "a whole number of at least 1")


def positive_seconds(text: str) -> float:
    """A finite time of more than 0 seconds, for argparse."""
    return _read(text, float, lambda s: 0 < s < math.inf, "a finite time of more than 0 seconds")


def at_least_zero(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    return _read(text, float, lambda x: 0 <= x < math.inf, "a finite number of at least 0")


def share(text: str) -> float:
    """More than 0 and at most 1, for argparse."""
    return _read(text, float, lambda x: 0 < x <= 1, "more than 0 and at most 1")


def device_name(text: str) -> str:
    """The name of a device that there is, for argparse; "auto" becomes what it stands for."""
    # Some measurements do without torch, which takes seconds to load.
    from seed.config.schema import ConfigError
    from seed.device.names import resolve_device

    try:
        return str(resolve_device(text, "device"))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_file(text: str) -> Path:
    """A file that can be written, for argparse: it is, once everything has been measured."""
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file in a folder that there is")
    return path


def _read(
    text: str, kind: Callable[[str], Number], fits: Callable[[Number], bool], expected: str
) -> Number:
    """The text as a number; refuses what is none, or does not fit."""
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
    return number


def run_plainly(name: str, measurement: Callable[[], None]) -> int:
    """Runs a measurement and returns its exit code; what goes wrong is said in plain words."""
    try:
        measurement()
    except ProcessFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    return 0


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
