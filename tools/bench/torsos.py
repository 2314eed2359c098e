"""Measures ways to compute the torsos of Atari networks: precision, memory format, threads.

    python -m tools.bench.torsos

All ways take turns in one process. Rows are counted per second of the clock and per core-second of
this process, which still says something while other programs take their share of the cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seed.networks.body import IMAGE_TORSOS
from seed.process.tuning import keep_freed_memory
from tools.bench.report import (
    Spread,
    describe_origin,
    format_table,
    origin_line,
    positive,
    positive_seconds,
    settings_of,
    spread,
    start_parser,
    write_json,
)

_STACK, _SIZE = 4, 84
_TORSOS = ("impala_shallow", "nature")


class Way(NamedTuple):
    """How a torso is computed.

    Attributes:
        bfloat16: Products in bfloat16 instead of float32.
        rounded: Weights kept in bfloat16; for acting only.
        channels_last: Weights in this memory format, which the layers then keep to.
        threads: torch's CPU threads.
        compiled: Through torch.compile.
    """

    bfloat16: bool = False
    rounded: bool = False
    channels_last: bool = False
    threads: int = 1
    compiled: bool = False


WAYS = {
    "float32": Way(),
    "float32, channels last": Way(channels_last=True),
    "float32, 2 threads": Way(threads=2),
    "bfloat16": Way(bfloat16=True),
    "bfloat16, channels last": Way(bfloat16=True, channels_last=True),
    "bfloat16, 2 threads": Way(bfloat16=True, threads=2),
    "bfloat16, rounded weights": Way(bfloat16=True, rounded=True),
}
# Takes minutes before its first result.
COMPILED = {"bfloat16, compiled": Way(bfloat16=True, compiled=True)}


class Rate(NamedTuple):
    """Rows per second of the clock, and per core-second."""

    by_clock: float
    by_cpu: float


def make_call(torso: str, way: Way, rows: int, *, learning: bool) -> Callable[[], None]:
    """Returns one forward pass over so many images, for learning with its gradient."""
    torch.manual_seed(0)
    images = torch.randint(256, (rows, _STACK, _SIZE, _SIZE), dtype=torch.uint8)
    network: nn.Module = IMAGE_TORSOS[torso](_STACK, _SIZE, _SIZE)
    if way.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if way.rounded:
        network = network.to(torch.bfloat16)
    if way.compiled:
        network = torch.compile(network)  # type: ignore[assignment]

    def forward() -> Tensor:
        """Features `[rows, size] float32`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=way.bfloat16):
            features: Tensor = network(images)
        return features.float()

    @torch.inference_mode()
    def act() -> None:
        """Runs the network without gradient."""
        forward()

    def learn() -> None:
        """Runs the network, then computes the gradient of its weights."""
        network.zero_grad()
        forward().square().mean().backward()  # type: ignore[no-untyped-call]

    return learn if learning else act


def time_rows(call: Callable[[], None], rows: int, threads: int, seconds: float) -> Rate:
    """Returns the rate of calls of so many rows each, after one that is not counted."""
    torch.set_num_threads(threads)
    call()
    count, clock_s, cpu_s = 0, time.perf_counter(), time.process_time()
    while not count or time.perf_counter() < clock_s + seconds:
        call()
        count += 1
    done = count * rows
    return Rate(done / (time.perf_counter() - clock_s), done / (time.process_time() - cpu_s))


def measure(
    ways: Mapping[str, Way], torso: str, act_rows: int, learn_rows: int, options: argparse.Namespace
) -> dict[str, dict[str, dict[str, Spread]]]:
    """Returns spreads by way, by "act" or "learn", by "by_clock" or "by_cpu"."""
    calls = {
        (name, kind): (make_call(torso, way, rows, learning=kind == "learn"), rows, way.threads)
        for name, way in ways.items()
        for kind, rows in (("act", act_rows), ("learn", learn_rows))
        if kind == "act" or not way.rounded
    }
    rates: dict[tuple[str, str], list[Rate]] = {key: [] for key in calls}
    for _ in range(options.repetitions):
        for key, call in calls.items():
            rates[key].append(time_rows(*call, options.seconds))
    figures: dict[str, dict[str, dict[str, Spread]]] = {name: {} for name in ways}
    for (name, kind), measured in rates.items():
        figures[name][kind] = {
            field: spread([getattr(rate, field) for rate in measured]) for field in Rate._fields
        }
    return figures


def table(figures: Mapping[str, Mapping[str, Mapping[str, Spread]]]) -> str:
    """Returns lines with a way each: rows per second, medians and ranges."""
    header = ["rows per second"]
    header += [f"{kind}, {unit}" for kind in ("act", "learn") for unit in ("clock", "core-second")]
    rows = []
    for name, kinds in figures.items():
        cells = [
            kinds[kind][field].text() if kind in kinds else "-"
            for kind in ("act", "learn")
            for field in Rate._fields
        ]
        rows.append([name, *cells])
    return format_table(header, rows)


def main(argv: list[str] | None = None) -> int:
    """Prints a table for each torso; returns the exit code."""
    parser = start_parser("torsos", __doc__)
    parser.add_argument("--torso", nargs="+", choices=list(IMAGE_TORSOS), default=list(_TORSOS))
    parser.add_argument("--act-rows", type=positive, default=32, help="images of a forward pass")
    parser.add_argument("--learn-rows", type=positive, default=84, help="images of an update")
    parser.add_argument("--compiled", action="store_true", help="torch.compile, too: minutes more")
    parser.add_argument("--seconds", type=positive_seconds, default=0.5, help="of one timing")
    parser.add_argument("--repetitions", type=positive, default=5, help="timings per median")
    options = parser.parse_args(argv)
    keep_freed_memory()
    origin = describe_origin()
    print(origin_line(origin))
    ways = {**WAYS, **(COMPILED if options.compiled else {})}
    figures = {}
    for torso in options.torso:
        figures[torso] = measure(ways, torso, options.act_rows, options.learn_rows, options)
        print(f"\n{torso}, {options.act_rows} rows to act, {options.learn_rows} to learn")
        print(table(figures[torso]), flush=True)
    if options.json is not None:
        write_json(options.json, origin, {"settings": settings_of(options), "torsos": figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
