"""What does a row cost a learner with more environments, more connections, fewer cores?

    python -m tools.bench.scaling
    python -m tools.bench.scaling --parts connections --connections 1 64 1000 4000
    taskset -c 0 python -m tools.bench.scaling --parts environments

    environments   ever more, with the same number of connections; images of 84x84 and of 8x8 pixels
    connections    ever more environment servers that share the same environments, 8x8

The learner runs an algorithm that does nothing and learns nothing, so that all cost is its own;
fake environment servers (`tools.bench.fake_servers`) answer at once, many in one process. A point
is measured once in each repetition, in the order of the table.

Cost is in CPU microseconds of the learner's process a row. Memory is its resident set in MB (10^6
bytes) while all are connected, in the first repetition: it never shrinks. "registered" is the time
from the first connection to the last WELCOME, while those who came first already work; "CPU s" is
what the learner's process took until then.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from tools import report
from tools.bench.fake_servers import start_clients
from tools.bench.learner_configs import Load, null_tables
from tools.processes import POLL_S, Process, Processes
from tools.watching import (
    Window,
    cpu_seconds,
    measure,
    median_means,
    memory_bytes,
    read_metrics,
    wait_watching,
)

Part = Literal["environments", "connections"]
PARTS: tuple[Part, ...] = ("environments", "connections")
LARGE, SMALL = 84, 8
_MOST_ROWS, _MOST_GROUPS = 32, 64
_SETTLE_S = 300.0


class Point(NamedTuple):
    """One line of the table: so many connections, each of `groups` groups of `rows` environments.

    Images have `side` by `side` pixels.
    """

    part: Part
    side: int
    connections: int
    groups: int
    rows: int

    @property
    def environments(self) -> int:
        """Of all connections together."""
        return self.connections * self.groups * self.rows


class Measured(NamedTuple):
    """A point in one repetition: the learner's metrics, CPU time until all were welcome, memory."""

    window: Window
    registered_s: float
    registered_cpu_s: float
    memory_bytes: int


def split(part: Part, side: int, environments: int, connections: int) -> Point:
    """A point with the environments divided over groups of at most 32 in each connection.

    There are two groups at least where there are environments enough; what does not divide evenly
    is rounded up.
    """
    each = max(1, -(-environments // connections))
    groups = min(_MOST_GROUPS, each, max(2, -(-each // _MOST_ROWS)))
    return Point(part, side, connections, groups, -(-each // groups))


def make_points(options: argparse.Namespace) -> list[Point]:
    """All lines of the table."""
    points = {
        "environments": [
            split("environments", side, environments, options.servers)
            for side in (LARGE, SMALL)
            for environments in options.environments
        ],
        "connections": [
            split("connections", SMALL, max(options.middle, connections), connections)
            for connections in options.connections
        ],
    }
    return [point for part in PARTS if part in options.parts for point in points[part]]


def start_learners(
    points: Sequence[Point], processes: Processes, options: argparse.Namespace
) -> dict[int, Process]:
    """A learner for each size of images, large enough for all its points."""
    learners = {}
    for side in sorted({point.side for point in points}):
        of_side = [point for point in points if point.side == side]
        load = Load(
            max_envs=max(point.environments for point in of_side),
            max_batch=max(options.max_batch, *(point.rows for point in of_side)),
            side=side,
        )
        learners[side] = processes.start_learner(
            null_tables(load), name=f"seed-learner ({side}x{side})", listening=False
        )
    for learner in learners.values():
        learner.wait_until_listening()
    return learners


def measure_point(
    point: Point, learner: Process, processes: Processes, options: argparse.Namespace
) -> Measured:
    """Connects all environment servers, lets them work, and takes them away again."""
    wait_until_empty(learner)
    before_s = cpu_seconds(learner.pid)
    clients = start_clients(
        processes, learner.endpoint, point.groups, point.rows,
        min(options.processes, point.connections), connections=point.connections,
    )  # fmt: skip
    # Processes connect at the same time; the slowest is the last one to be done.
    registered_s = max(parse_registered(client.text) for client in clients)
    registered_cpu_s = cpu_seconds(learner.pid) - before_s
    wait_watching(options.warmup, processes.check)
    window = measure(learner, options.seconds, processes.check)
    measured = Measured(window, registered_s, registered_cpu_s, memory_bytes(learner.pid))
    processes.stop(*clients)
    return measured


def wait_until_empty(learner: Process) -> None:
    """Waits until no environment is connected, as the learner's metrics say."""
    deadline_s = time.monotonic() + _SETTLE_S
    while not (lines := read_metrics(learner.run_dir)) or lines[-1]["num_envs"] != 0:
        learner.check()
        if time.monotonic() > deadline_s:
            raise learner.failure(f"still has environments after {_SETTLE_S:g} s")
        time.sleep(POLL_S)


def parse_registered(text: str) -> float:
    """Seconds in the line that fake environment servers print when all are welcome."""
    return float(text.split()[-2])


def summarize(point: Point, measured: Sequence[Measured]) -> dict[str, Any]:
    """Figures of one point over its repetitions, as JSON takes them."""
    windows = [each.window for each in measured]
    means = median_means(windows)
    return {
        **point._asdict(),
        "environments": point.environments,
        "rows_per_s": report.spread([window.steps_per_s for window in windows]),
        "cpu_us_per_row": report.spread([window.cpu_us_per_step for window in windows]),
        "cores_used": report.spread([window.cores_used for window in windows]),
        "batch_rows": means.get("inference_batch_mean"),
        "num_envs": means["num_envs"],
        "registered_s": report.spread([each.registered_s for each in measured]),
        "registered_cpu_s": report.spread([each.registered_cpu_s for each in measured]),
        "memory_bytes": measured[0].memory_bytes,
    }


HEADER = (
    "part", "pixels", "environments", "connections", "rows/message", "rows/s", "CPU us/row",
    "cores used", "rows/batch", "registered s", "CPU s", "memory MB",
)  # fmt: skip


def make_row(figures: dict[str, Any]) -> list[str]:
    """The cells of a point."""
    return [
        figures["part"],
        f"{figures['side']}x{figures['side']}",
        f"{figures['environments']:,}",
        f"{figures['connections']:,}",
        str(figures["rows"]),
        figures["rows_per_s"].text(),
        figures["cpu_us_per_row"].text("{:.1f}"),
        f"{figures['cores_used'].median:.2f}",
        f"{figures['batch_rows']:.0f}" if figures["batch_rows"] else "-",
        figures["registered_s"].text("{:.2f}"),
        f"{figures['registered_cpu_s'].median:.2f}",
        f"{figures['memory_bytes'] / 1e6:,.0f}",
    ]


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = report.start_parser("scaling", __doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    add("--environments", nargs="+", type=report.positive, default=[16, 128, 1024, 4096],
        help="environments in all")  # fmt: skip
    add("--connections", nargs="+", type=report.positive, default=[1, 8, 64],
        help="environment servers; 4000 work too")  # fmt: skip
    add("--servers", type=report.positive, default=2, help="connections where they do not grow")
    add("--middle", type=report.positive, default=256, help="environments where they do not grow")
    add("--processes", type=report.positive, default=2, help="that hold the connections, at most")
    add("--max-batch", type=report.positive, default=256, help="rows of the largest batch")
    report.add_times(parser, seconds=2.0, warmup=0.5)
    return parser


def measure_all(options: argparse.Namespace) -> report.Results:
    """All points, in turns."""
    points = make_points(options)
    measured: dict[Point, list[Measured]] = {point: [] for point in points}
    # Of this process's limits those that it starts get the same.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Processes() as processes:
        learners = start_learners(points, processes, options)
        for _ in range(options.repetitions):
            for point, of_point in measured.items():
                of_point.append(measure_point(point, learners[point.side], processes, options))
    figures = [summarize(point, of_point) for point, of_point in measured.items()]
    return report.Results(HEADER, [make_row(of_point) for of_point in figures], {"points": figures})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return report.run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
