"""How long do actions take at several loads, beside the forward pass alone? In milliseconds.

    python -m tools.bench.latency

First fake environment servers answer at once, which gives the most rows per second that a learner
serves. Then they send at fixed rates, shares of that (an open loop), and note when each message
left and when its actions were there. After each load the forward pass alone is timed in this
process, in batches as large as the learner's were. Nothing is learned; environments cost nothing.

A message that is due while its group still waits for actions leaves late: "from due" counts from
when it should have left, so that a learner cannot look fast by slowing its clients down.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from seed.config.loading import from_tables
from seed.config.schema import Config
from seed.contract.loading import load_algorithm_config
from seed.process.tuning import keep_freed_memory
from tools.bench.bare_work import make_acting
from tools.bench.fake_servers import measure_serving, start_clients
from tools.bench.learner_configs import add_load_options, inference_tables, read_load
from tools.processes import Process, Processes
from tools.report import (
    Results,
    Spread,
    add_times,
    positive_seconds,
    run_command,
    share,
    spread,
    start_parser,
)
from tools.watching import measure

_FINISH_TIMEOUT_S = 120.0
_WARM_CALLS = 3


class Percentiles(NamedTuple):
    """Of times in milliseconds."""

    p50: float
    p99: float
    highest: float


class Measured(NamedTuple):
    """What became of one load in one repetition.

    Times until a message's actions count from its leaving (`sent`) and from when it was `due`.
    `forward` is the forward pass alone, in batches as large as the learner's `batch_rows`.
    """

    offered_rows_per_s: float
    answered_share: float
    batch_rows: float
    sent: Percentiles
    due: Percentiles
    forward: Percentiles


def percentiles(times_ms: Sequence[float]) -> Percentiles:
    """The figures of at least one time."""
    return Percentiles(*np.percentile(times_ms, (50, 99, 100)).tolist())


def time_forward(config: Config, batch: int, seconds: float) -> Percentiles:
    """Times of the forward pass alone, for about so long; its actions are on the host."""
    acting = make_acting(config, batch)
    for _ in range(_WARM_CALLS):
        acting.run()
    times_ms: list[float] = []
    began_s = time.perf_counter()
    while not times_ms or time.perf_counter() - began_s < seconds:
        start_s = time.perf_counter()
        acting.run()
        times_ms.append(1e3 * (time.perf_counter() - start_s))
    return percentiles(times_ms)


def measure_load(
    rows_per_s: float,
    learner: Process,
    config: Config,
    processes: Processes,
    options: argparse.Namespace,
) -> Measured:
    """Offers so many rows per second for a while, then times the forward pass alone.

    Raises:
        ProcessFailed: where a process ends, or nothing is answered.
    """
    rate = rows_per_s / options.rows_per_message / options.servers
    reports = [processes.folder / f"report-{index}.json" for index in range(options.servers)]
    timing = ["--rate", str(rate), "--warmup", str(options.warmup),
              "--seconds", str(options.seconds)]  # fmt: skip
    clients = start_clients(
        processes, learner.endpoint, options.groups, options.rows_per_message, options.servers,
        options=[[*timing, "--report", str(path)] for path in reports],
    )  # fmt: skip
    time.sleep(options.warmup)
    # Clients end by themselves, so only the learner is watched.
    window = measure(learner, 0.8 * options.seconds, learner.check)
    processes.finish(clients, options.seconds + _FINISH_TIMEOUT_S)
    read = [json.loads(path.read_text()) for path in reports]
    if not any(report["rows"] for report in read):
        raise learner.failure(f"answered nothing at {rows_per_s:,.0f} rows/s")
    batch_rows = window.means["inference_batch_mean"]
    forward = time_forward(config, max(1, round(batch_rows)), options.forward_seconds)
    return join_reports(read, rows_per_s, options.seconds, batch_rows, forward)


def join_reports(
    reports: Sequence[Mapping[str, Any]], rows_per_s: float, seconds: float, batch_rows: float,
    forward: Percentiles,
) -> Measured:  # fmt: skip
    """What became of a load that several fake environment servers' processes offered together."""
    sent, due = (
        percentiles([time_ms for report in reports for time_ms in report[name]])
        for name in ("latencies_ms", "due_latencies_ms")
    )
    answered = sum(report["rows"] for report in reports) / (rows_per_s * seconds)
    return Measured(rows_per_s, answered, batch_rows, sent, due, forward)


def summarize(measured: Sequence[Measured]) -> dict[str, Any]:
    """Figures of one load over its repetitions, as JSON takes them."""

    def over_all(name: str) -> dict[str, Spread]:
        """Each of the percentiles of these times."""
        times = [getattr(each, name) for each in measured]
        return {p: spread([getattr(one, p) for one in times]) for p in Percentiles._fields}

    return {
        "offered_rows_per_s": measured[0].offered_rows_per_s,
        "answered_share": spread([each.answered_share for each in measured]),
        "batch_rows": spread([each.batch_rows for each in measured]),
        **{f"{name}_ms": over_all(name) for name in ("sent", "due", "forward")},
        "p99_per_forward": spread([each.sent.p99 / each.forward.p50 for each in measured]),
    }


HEADER = (
    "load", "rows/s", "answered", "rows/batch", "p50 ms", "p99 ms", "max ms", "p99 from due ms",
    "forward p50 ms", "forward p99 ms", "p99 / forward p50",
)  # fmt: skip


def make_row(load: float, figures: Mapping[str, Any]) -> list[str]:
    """The cells of a load."""
    sent, due, forward = figures["sent_ms"], figures["due_ms"], figures["forward_ms"]
    times = (sent["p50"], sent["p99"], sent["highest"], due["p99"], forward["p50"], forward["p99"])
    return [
        f"{load:.0%}",
        f"{figures['offered_rows_per_s']:,.0f}",
        f"{figures['answered_share'].median:.1%}",
        f"{figures['batch_rows'].median:.1f}",
        *(each.text("{:.2f}") for each in times),
        figures["p99_per_forward"].text("{:.2f}"),
    ]


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("latency", __doc__)
    parser.add_argument("--loads", nargs="+", type=share, default=[0.1, 0.3, 0.5, 0.7, 0.9],
                        help="shares of the highest rate")  # fmt: skip
    add_load_options(parser, groups=8, rows=16)
    add_times(parser, seconds=5.0, warmup=0.5)
    parser.add_argument("--forward-seconds", type=positive_seconds, default=1.0,
                        help="of the forward pass alone")  # fmt: skip
    return parser


def measure_all(options: argparse.Namespace) -> Results:
    """The highest rate, then all loads in turns."""
    torch.set_num_threads(1)
    keep_freed_memory()
    tables = inference_tables(read_load(options))
    config = from_tables(tables, load_algorithm_config)
    measured: dict[float, list[Measured]] = {load: [] for load in options.loads}
    with Processes() as processes:
        learner = processes.start_learner(tables)
        highest = spread([
            measure_serving(learner, processes, options).steps_per_s
            for _ in range(options.repetitions)
        ])  # fmt: skip
        for _ in range(options.repetitions):
            for load, of_load in measured.items():
                rows_per_s = load * highest.median
                of_load.append(measure_load(rows_per_s, learner, config, processes, options))
    figures = {load: summarize(of_load) for load, of_load in measured.items()}
    loads = [{"load": load, **of_load} for load, of_load in figures.items()]
    notes = ["", f"loads are shares of the highest rate: {highest.text()} rows/s"]
    rows = [make_row(load, of_load) for load, of_load in figures.items()]
    return Results(HEADER, rows, {"highest_rows_per_s": highest, "loads": loads}, notes)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
