"""How long actions take at several offered loads, beside the forward pass alone.

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
from seed.config.schema import Config, ConfigError
from seed.contract import load_algorithm_config
from seed.process.tuning import keep_freed_memory
from tools.bench.bare_work import make_acting
from tools.bench.fake_servers import fake_servers_command
from tools.bench.learner_configs import add_load_options, inference_tables, read_load
from tools.bench.processes import Processes, Server, measure
from tools.bench.report import (
    Spread,
    describe_origin,
    format_table,
    origin_line,
    positive,
    positive_seconds,
    run_plainly,
    settings_of,
    share,
    spread,
    start_parser,
    write_json,
)

_FINISH_TIMEOUT_S = 120.0
_WARM_CALLS = 3


class Percentiles(NamedTuple):
    """Of times in milliseconds."""

    p50: float
    p99: float
    highest: float


class Answered(NamedTuple):
    """What became of one load.

    Attributes:
        share: Of the rows that were due, the share that was answered before the end.
        sent: From a message's leaving to its actions.
        due: From when the message was due to its actions.
        batch_rows: Rows of the learner's batches, in the mean.
    """

    share: float
    sent: Percentiles
    due: Percentiles
    batch_rows: float


class Measured(NamedTuple):
    """One load in one repetition.

    Attributes:
        offered_rows_per_s: Rows that were due.
        answered: What became of them.
        forward: The forward pass alone in batches as large as the learner's were.
    """

    offered_rows_per_s: float
    answered: Answered
    forward: Percentiles


def percentiles(times_ms: Sequence[float]) -> Percentiles:
    """The figures of at least one time."""
    p50, p99, highest = np.percentile(times_ms, (50, 99, 100)).tolist()
    return Percentiles(p50, p99, highest)


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


def measure_highest(
    learner: Server, processes: Processes, arguments: argparse.Namespace
) -> float:
    """Rows per second that the learner serves at most."""
    command = fake_servers_command(
        learner.endpoint, arguments.groups, arguments.rows_per_message
    )
    clients = [processes.start("client", command) for _ in range(arguments.servers)]
    for client in clients:
        client.wait_for("registered ")
    time.sleep(arguments.warmup)
    window = measure(learner, arguments.seconds, processes.check)
    processes.stop(*clients)
    return window.steps_per_s


def offer_load(
    rows_per_s: float, learner: Server, processes: Processes, arguments: argparse.Namespace
) -> Answered:
    """Offers so many rows per second for a while.

    Args:
        rows_per_s: Of all together.
        learner: Whom they are sent to.
        processes: Where the fake environment servers are started.
        arguments: `servers`, `groups`, `rows_per_message`, `warmup` and `seconds`.

    Raises:
        ProcessFailed: where a process ends, or nothing is answered.
    """
    rate = rows_per_s / arguments.rows_per_message / arguments.servers
    reports = [processes.folder / f"report-{index}.json" for index in range(arguments.servers)]
    command = [
        *fake_servers_command(learner.endpoint, arguments.groups, arguments.rows_per_message),
        "--rate", str(rate), "--warmup", str(arguments.warmup), "--seconds", str(arguments.seconds),
    ]  # fmt: skip
    clients = [processes.start("client", [*command, "--report", str(path)]) for path in reports]
    for client in clients:
        client.wait_for("registered ")
    time.sleep(arguments.warmup)
    # Clients end by themselves, so only the learner is watched.
    window = measure(learner, 0.8 * arguments.seconds, learner.check)
    processes.finish(clients, arguments.seconds + _FINISH_TIMEOUT_S)
    read = [json.loads(path.read_text()) for path in reports]
    if not any(report["rows"] for report in read):
        raise learner.failure(f"answered nothing at {rows_per_s:,.0f} rows/s")
    batch_rows = window.means["inference_batch_mean"]
    return join_reports(read, rows_per_s * arguments.seconds, batch_rows)


def join_reports(
    reports: Sequence[Mapping[str, Any]], due_rows: float, batch_rows: float
) -> Answered:
    """What became of a load that several processes offered.

    Args:
        reports: Of `tools.bench.fake_servers`; at least one message was answered.
        due_rows: Of all of them together.
        batch_rows: Rows of the learner's batches, in the mean.
    """
    sent_ms, due_ms = (
        [time_ms for report in reports for time_ms in report[name]]
        for name in ("latencies_ms", "due_latencies_ms")
    )
    share_ = sum(report["rows"] for report in reports) / due_rows
    return Answered(share_, percentiles(sent_ms), percentiles(due_ms), batch_rows)


def measure_load(
    rows_per_s: float,
    learner: Server,
    config: Config,
    processes: Processes,
    arguments: argparse.Namespace,
) -> Measured:
    """Offers so many rows per second, then times the forward pass alone."""
    answered = offer_load(rows_per_s, learner, processes, arguments)
    batch = max(1, round(answered.batch_rows))
    return Measured(rows_per_s, answered, time_forward(config, batch, arguments.forward_seconds))


def summarize(measured: Sequence[Measured]) -> dict[str, Any]:
    """Figures of one load over its repetitions, as JSON takes them."""
    answered = [m.answered for m in measured]
    return {
        "offered_rows_per_s": measured[0].offered_rows_per_s,
        "answered_share": spread([a.share for a in answered]),
        "batch_rows": spread([a.batch_rows for a in answered]),
        "sent_ms": spread_percentiles([a.sent for a in answered]),
        "due_ms": spread_percentiles([a.due for a in answered]),
        "forward_ms": spread_percentiles([m.forward for m in measured]),
        "p99_per_forward": spread([m.answered.sent.p99 / m.forward.p50 for m in measured]),
    }


def spread_percentiles(measured: Sequence[Percentiles]) -> dict[str, Spread]:
    """Each of the percentiles over repetitions, by name."""
    return {name: spread([getattr(one, name) for one in measured]) for name in Percentiles._fields}


def make_table(figures: dict[float, dict[str, Any]]) -> str:
    """The table of all loads, in milliseconds."""
    rows = []
    for load, of_load in figures.items():
        sent, due, forward = of_load["sent_ms"], of_load["due_ms"], of_load["forward_ms"]
        rows.append([
            f"{load:.0%}",
            f"{of_load['offered_rows_per_s']:,.0f}",
            f"{of_load['answered_share'].median:.1%}",
            f"{of_load['batch_rows'].median:.1f}",
            f"{sent['p50'].median:.2f}",
            sent["p99"].text("{:.2f}"),
            f"{sent['highest'].median:.2f}",
            f"{due['p99'].median:.2f}",
            f"{forward['p50'].median:.2f}",
            f"{forward['p99'].median:.2f}",
            of_load["p99_per_forward"].text("{:.2f}"),
        ])  # fmt: skip
    header = [
        "load", "rows/s", "answered", "rows/batch", "p50 ms", "p99 ms", "max ms",
        "p99 from due ms", "forward p50 ms", "forward p99 ms", "p99 / forward p50",
    ]  # fmt: skip
    return format_table(header, rows)


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("latency", __doc__)
    add = parser.add_argument
    add("--loads", nargs="+", type=share, default=[0.1, 0.3, 0.5, 0.7, 0.9],
        help="shares of the highest rate")  # fmt: skip
    add_load_options(parser, groups=8, rows=16)
    add("--seconds", type=positive_seconds, default=5.0, help="of each load and repetition")
    add("--warmup", type=positive_seconds, default=0.5, help="seconds before those measured")
    add("--forward-seconds", type=positive_seconds, default=1.0, help="of the forward pass alone")
    add("--repetitions", type=positive, default=3, help="of every load, in turns")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures everything and prints the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    origin = describe_origin(arguments.device)
    print(origin_line(origin))
    tables = inference_tables(read_load(arguments))
    config = from_tables(tables, load_algorithm_config)
    measured: dict[float, list[Measured]] = {load: [] for load in arguments.loads}
    with Processes() as processes:
        learner = processes.start_learner(tables)
        highest = spread([
            measure_highest(learner, processes, arguments) for _ in range(arguments.repetitions)
        ])  # fmt: skip
        print(
            f"{arguments.torso}, messages of {arguments.rows_per_message} rows; at most "
            f"{highest.text()} rows/s; loads are shares of that median"
        )
        for _ in range(arguments.repetitions):
            for load, of_load in measured.items():
                rows_per_s = load * highest.median
                of_load.append(measure_load(rows_per_s, learner, config, processes, arguments))
    figures = {load: summarize(of_load) for load, of_load in measured.items()}
    print(make_table(figures))
    if arguments.json is not None:
        loads = [{"load": load, **of_load} for load, of_load in figures.items()]
        results = {"highest_rows_per_s": highest, "loads": loads}
        write_json(arguments.json, origin, {"settings": settings_of(arguments), **results})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        return run_plainly("latency", lambda: run(arguments))
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
