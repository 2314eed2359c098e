"""How many rows a second can a learner take, from a bare socket to learning?

    python -m tools.bench.synthetic

    echo        a bare ROUTER that answers with zeros, and does nothing else
    null        seed-learner with an algorithm that does nothing, and without learning
    inference   seed-learner with a network and a frame stack of 4, without learning
    vtrace      the same, learning with V-trace
    r2d2        the same with an LSTM, learning with R2D2 from replay

Fake environment servers (`tools.bench.fake_servers`) answer at once with prepared rows of 84x84
pixels. All learners are started first and wait; the clients then go from one to the next, in turns.

A row is a step, but for the first row of an episode, one in 1001, which only the echo counts. fps
are frames per second, 4 a step. A MB is 10^6 bytes of pixels. CPU time is that of the server's
process, with its socket's thread. The notes say what its threads spend their time on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tools import report
from tools.bench import learner_configs
from tools.bench.fake_servers import measure_serving
from tools.bench.learner_configs import FRAMES_PER_STEP
from tools.processes import Process, Processes
from tools.watching import Window, median_means

ECHO = "echo"
LEARNING = ("vtrace", "r2d2")
KINDS = (ECHO, "null", "inference", *LEARNING)
# R2D2's first one comes once its replay has `min_rows`.
_FIRST_UPDATES = 2


def learner_tables(kind: str, options: argparse.Namespace) -> learner_configs.Tables:
    """The configuration of a kind's learner."""
    load = learner_configs.read_load(options)
    if kind == "vtrace":
        return learner_configs.vtrace_tables(load, options.unroll, options.batch)
    if kind == "r2d2":
        return learner_configs.r2d2_tables(
            load, options.r2d2_unroll, options.r2d2_batch, options.lstm
        )
    make = learner_configs.null_tables if kind == "null" else learner_configs.inference_tables
    return make(load)


def start_servers(processes: Processes, options: argparse.Namespace) -> dict[str, Process]:
    """Starts what is to be measured, all at once; returns when every one listens."""
    servers = {}
    for kind in options.kinds:
        if kind == ECHO:
            command = [sys.executable, "-m", "tools.bench.echo", "RUN_DIR"]
            servers[kind] = processes.start(ECHO, command)
        else:
            servers[kind] = processes.start_learner(
                learner_tables(kind, options), options.override, name=f"seed-learner ({kind})",
                listening=False,
            )  # fmt: skip
    for server in servers.values():
        server.wait_until_listening()
    return servers


def summarize(windows: Sequence[Window], echoes: Sequence[Window]) -> dict[str, Any]:
    """Figures of one kind over its repetitions; `echoes` are of the same ones, or none at all."""
    of_echo = [w.steps_per_s / echo.steps_per_s for w, echo in zip(windows, echoes, strict=False)]
    return {
        "rows_per_s": report.spread([window.steps_per_s for window in windows]),
        "of_echo": report.spread(of_echo) if of_echo else None,
        "cpu_us_per_row": report.spread([window.cpu_us_per_step for window in windows]),
        "updates_per_s": report.spread([window.updates_per_s for window in windows]),
        "metrics": median_means(windows),
    }


HEADER = ("", "rows/s", "fps", "MB/s", "of echo", "CPU us/row", "rows/batch", "updates/s")


def make_row(kind: str, figures: Mapping[str, Any]) -> list[str]:
    """The cells of a kind."""
    median, updates = figures["rows_per_s"].median, figures["updates_per_s"].median
    batch = figures["metrics"].get("inference_batch_mean")
    return [
        kind,
        figures["rows_per_s"].text(),
        f"{median * FRAMES_PER_STEP:,.0f}",
        f"{median * 84 * 84 / 1e6:,.1f}",
        figures["of_echo"].text("{:.3f}") if figures["of_echo"] else "-",
        figures["cpu_us_per_row"].text("{:,.1f}"),
        f"{batch:.0f}" if batch else "-",
        f"{updates:.2f}" if updates else "-",
    ]


def describe_shares(kind: str, metrics: Mapping[str, float]) -> list[str]:
    """A line for each thread that says what it does: its phases and their shares of the time."""
    lines = []
    for thread in ("inference", "learner"):
        prefix = f"{thread}_share_"
        shares = [f"{name.removeprefix(prefix)} {share:.1%}"
                  for name, share in metrics.items() if name.startswith(prefix)]  # fmt: skip
        lines += [f"{kind}, {thread} thread: {', '.join(shares)}"] if shares else []
    return lines


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = report.start_parser("synthetic", __doc__)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is measured")
    learner_configs.add_load_options(parser, groups=2, rows=32)
    for option, size, text in (
        ("--unroll", 20, "V-trace: steps of an unroll"),
        ("--batch", 4, "V-trace: unrolls of an update"),
        ("--r2d2-unroll", 40, "R2D2: steps; half as many of burn-in"),
        ("--r2d2-batch", 8, "R2D2: unrolls of an update"),
        ("--lstm", 512, "R2D2: units"),
    ):
        add(option, type=report.positive, default=size, help=text)
    report.add_times(parser, seconds=5.0, warmup=1.0)
    report.add_override(parser)
    return parser


def measure_all(options: argparse.Namespace) -> report.Results:
    """All kinds, in turns."""
    windows: dict[str, list[Window]] = {kind: [] for kind in options.kinds}
    with Processes() as processes:
        servers = start_servers(processes, options)
        for _ in range(options.repetitions):
            for kind, server in servers.items():
                updates = _FIRST_UPDATES if kind in LEARNING else 0
                windows[kind].append(measure_serving(server, processes, options, updates))
    echoes = windows.get(ECHO, [])
    figures = {kind: summarize(measured, echoes) for kind, measured in windows.items()}
    notes = [line for kind, of in figures.items() for line in describe_shares(kind, of["metrics"])]
    rows = [make_row(kind, of_kind) for kind, of_kind in figures.items()]
    return report.Results(HEADER, rows, {"kinds": figures}, ["", *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return report.run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
