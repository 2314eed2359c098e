"""How a learner's cost of a row grows with environments, connections, and fewer cores.

    python -m tools.bench.scaling
    python -m tools.bench.scaling --connections 1 64 1000 4000 --parts connections

    environments   ever more, with the same number of connections; images of 84x84 and of 8x8 pixels
    connections    ever more environment servers that share the same environments, 8x8
    cores          the learner and all environment servers together on 1 core, on 2, ... 84x84

The learner runs an algorithm that does nothing and learns nothing, so that all cost is its own;
fake environment servers (`tools.bench.fake_servers`) answer at once, many in one process. A point
is measured once in each repetition, in the order of the table. Memory is the learner's resident
set while all are connected, in the first repetition: it never shrinks. "registered" is the time
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

from tools.bench.fake_servers import fake_servers_command
from tools.bench.learner_configs import Load, null_tables
from tools.bench.processes import (
    Process,
    Processes,
    Server,
    Window,
    cpu_seconds,
    measure,
    median_means,
    memory_bytes,
    pin,
    usable_cores,
)
from tools.bench.report import (
    describe_origin,
    format_table,
    origin_line,
    positive,
    positive_seconds,
    run_plainly,
    settings_of,
    spread,
    start_parser,
    write_json,
)

Part = Literal["environments", "connections", "cores"]
PARTS: tuple[Part, ...] = ("environments", "connections", "cores")
LARGE, SMALL = 84, 8
_MOST_ROWS, _MOST_GROUPS = 32, 64
_SETTLE_S = 300.0
_POLL_S = 0.05


class Point(NamedTuple):
    """What one line of the table measures.

    Attributes:
        part: What grows.
        side: Pixels of an image's edge.
        connections: Environment servers.
        groups: Of each.
        rows: Environments of each group.
        cores: For the learner and the environment servers together; 0 for all.
    """

    part: Part
    side: int
    connections: int
    groups: int
    rows: int
    cores: int = 0

    @property
    def environments(self) -> int:
        """Of all connections together."""
        return self.connections * self.groups * self.rows


class Measured(NamedTuple):
    """A point in one repetition.

    Attributes:
        window: What the learner's metrics said.
        registered_s: Until every environment server was welcome.
        registered_cpu_s: CPU time of the learner until then, with what it served meanwhile.
        memory_bytes: Of the learner.
    """

    window: Window
    registered_s: float
    registered_cpu_s: float
    memory_bytes: int


def split(part: Part, side: int, environments: int, connections: int, cores: int = 0) -> Point:
    """A point with the environments divided over groups of at most 32 in each connection.

    There are two groups at least where there are environments enough; what does not divide evenly
    is rounded up.
    """
    each = max(1, -(-environments // connections))
    groups = min(_MOST_GROUPS, each, max(2, -(-each // _MOST_ROWS)))
    return Point(part, side, connections, groups, -(-each // groups), cores)


def make_points(arguments: argparse.Namespace) -> list[Point]:
    """All lines of the table."""
    fixed, middle = arguments.servers, arguments.middle
    points = {
        "environments": [
            split("environments", side, environments, fixed)
            for side in (LARGE, SMALL)
            for environments in arguments.environments
        ],
        "connections": [
            split("connections", SMALL, max(middle, connections), connections)
            for connections in arguments.connections
        ],
        "cores": [split("cores", LARGE, middle, fixed, cores) for cores in arguments.cores],
    }
    return [point for part in PARTS if part in arguments.parts for point in points[part]]


def start_learners(
    points: Sequence[Point], processes: Processes, arguments: argparse.Namespace
) -> dict[int, Server]:
    """A learner for each size of images, large enough for all its points."""
    learners = {}
    for side in sorted({point.side for point in points}):
        of_side = [point for point in points if point.side == side]
        load = Load(
            max_envs=max(point.environments for point in of_side),
            max_batch=max(arguments.max_batch, *(point.rows for point in of_side)),
            side=side,
        )
        learners[side] = processes.start_learner(
            null_tables(load), name=f"seed-learner ({side}x{side})", listening=False
        )
    for learner in learners.values():
        learner.wait_until_listening()
    return learners


def start_clients(
    point: Point, endpoint: str, processes: Processes, cores: Sequence[int] | None, count: int
) -> list[Process]:
    """`count` processes, or fewer, that hold the point's connections between them."""
    count = min(count, point.connections)
    share, more = divmod(point.connections, count)
    commands = [
        fake_servers_command(endpoint, point.groups, point.rows, share + (index < more))
        for index in range(count)
    ]
    return [processes.start("client", command, cores=cores) for command in commands]


def measure_point(
    point: Point, learner: Server, processes: Processes, arguments: argparse.Namespace
) -> Measured:
    """Connects all environment servers, lets them work, and takes them away again."""
    cores = usable_cores()
    if point.cores:
        pin(learner.pid, cores[: point.cores])
    await_environments(learner, 0)
    before_s = cpu_seconds(learner.pid)
    clients = start_clients(
        point, learner.endpoint, processes, cores[: point.cores] or None, arguments.processes
    )
    # Processes connect at the same time; the slowest is the last one to be done.
    registered_s = max(parse_registered(client.wait_for("registered ")) for client in clients)
    registered_cpu_s = cpu_seconds(learner.pid) - before_s
    time.sleep(arguments.warmup)
    window = measure(learner, arguments.seconds, processes.check)
    measured = Measured(window, registered_s, registered_cpu_s, memory_bytes(learner.pid))
    processes.stop(*clients)
    if point.cores:
        pin(learner.pid, cores)
    return measured


def await_environments(learner: Server, count: int) -> None:
    """Waits until so many are connected, as the learner's metrics say."""
    deadline_s = time.monotonic() + _SETTLE_S
    while not (lines := learner.metrics()) or lines[-1]["num_envs"] != count:
        learner.check()
        if time.monotonic() > deadline_s:
            raise learner.failure(f"did not come to {count} environments in {_SETTLE_S:g} s")
        time.sleep(_POLL_S)


def parse_registered(line: str) -> float:
    """Seconds in the line that fake environment servers print when all are welcome."""
    return float(line.split()[-2])


def summarize(point: Point, measured: Sequence[Measured]) -> dict[str, Any]:
    """Figures of one point over its repetitions, as JSON takes them."""
    windows = [m.window for m in measured]
    means = median_means(windows)
    return {
        **point._asdict(),
        "environments": point.environments,
        "rows_per_s": spread([window.steps_per_s for window in windows]),
        "cpu_us_per_row": spread([window.cpu_us_per_step for window in windows]),
        "cores_used": spread([window.cores_used for window in windows]),
        "batch_rows": means.get("inference_batch_mean"),
        "registered_s": spread([m.registered_s for m in measured]),
        "registered_cpu_s": spread([m.registered_cpu_s for m in measured]),
        "memory_bytes": measured[0].memory_bytes,
        "metrics": means,
    }


def make_table(figures: Sequence[dict[str, Any]]) -> str:
    """The table of all points; a MB is 10^6 bytes."""
    rows = [
        [
            of_point["part"],
            f"{of_point['side']}x{of_point['side']}",
            f"{of_point['environments']:,}",
            f"{of_point['connections']:,}",
            str(of_point["rows"]),
            str(of_point["cores"] or "all"),
            of_point["rows_per_s"].text(),
            of_point["cpu_us_per_row"].text("{:.1f}"),
            f"{of_point['cores_used'].median:.2f}",
            f"{of_point['batch_rows']:.0f}" if of_point["batch_rows"] else "-",
            of_point["registered_s"].text("{:.2f}"),
            f"{of_point['registered_cpu_s'].median:.2f}",
            f"{of_point['memory_bytes'] / 1e6:,.0f}",
        ]
        for of_point in figures
    ]
    header = [
        "part", "pixels", "environments", "connections", "rows/message", "cores", "rows/s",
        "CPU us/row", "cores used", "rows/batch", "registered s", "CPU s", "memory MB",
    ]  # fmt: skip
    return format_table(header, rows)


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("scaling", __doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    add("--environments", nargs="+", type=positive, default=[16, 128, 1024, 4096],
        help="environments in all")  # fmt: skip
    add("--connections", nargs="+", type=positive, default=[1, 8, 64],
        help="environment servers; 4000 work too")  # fmt: skip
    add("--cores", nargs="+", type=positive, default=sorted({1, min(2, len(usable_cores()))}),
        help="for the learner and the environment servers together")  # fmt: skip
    add("--servers", type=positive, default=2, help="connections where they do not grow")
    add("--middle", type=positive, default=256, help="environments where they do not grow")
    add("--processes", type=positive, default=2, help="that hold the connections, at most")
    add("--max-batch", type=positive, default=256, help="rows of the largest batch")
    add("--seconds", type=positive_seconds, default=2.0, help="of each point and repetition")
    add("--warmup", type=positive_seconds, default=0.5, help="seconds before those measured")
    add("--repetitions", type=positive, default=3, help="of every point, in turns")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures everything and prints the table."""
    origin = describe_origin()
    print(origin_line(origin))
    points = make_points(arguments)
    measured: dict[Point, list[Measured]] = {point: [] for point in points}
    allow_many_files()
    with Processes() as processes:
        learners = start_learners(points, processes, arguments)
        for _ in range(arguments.repetitions):
            for point, of_point in measured.items():
                learner = learners[point.side]
                of_point.append(measure_point(point, learner, processes, arguments))
    figures = [summarize(point, of_point) for point, of_point in measured.items()]
    print(make_table(figures))
    if arguments.json is not None:
        write_json(
            arguments.json, origin, {"settings": settings_of(arguments), "points": figures}
        )


def allow_many_files() -> None:
    """Raises this process's limit of open files, and of those that it starts, to the highest."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if max(arguments.cores) > len(usable_cores()):
        parser.error(
            f"--cores {max(arguments.cores)}: expected at most {len(usable_cores())}, as there are "
            "no more here"
        )
    return run_plainly("scaling", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
