"""How many rows a learner can take: from a bare socket to learning, with free environments.

    python -m tools.bench.synthetic

    echo        a bare ROUTER that answers with zeros, and does nothing else
    null        seed-learner with an algorithm that does nothing, and without learning
    inference   seed-learner with a network and a frame stack of 4, without learning
    vtrace      the same, learning with V-trace
    r2d2        the same with an LSTM, learning with R2D2 from replay

The environment servers are light processes that answer with prepared rows of 84x84 pixels
(`tools.bench.fake_servers`), or real ones with environments that cost nothing (`--clients real`).
All learners are started first and wait; the clients then go from one to the next, in turns. A row
is a step, but for the first row of an episode, one in 1001, which only the echo counts. CPU time is
that of the server's process, with its socket's thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tools.bench.fake_servers import fake_servers_command
from tools.bench.learner_configs import (
    FRAMES_PER_STEP,
    Tables,
    Training,
    add_load_options,
    inference_tables,
    null_tables,
    r2d2_tables,
    read_load,
    vtrace_tables,
)
from tools.bench.processes import (
    START_TIMEOUT_S,
    Processes,
    Server,
    Window,
    envserver_command,
    measure,
    median_means,
)
from tools.bench.report import (
    add_override,
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

ECHO = "echo"
LEARNING = ("vtrace", "r2d2")
KINDS = (ECHO, "null", "inference", *LEARNING)
_POLL_S = 0.05
# Enough for the first updates, which R2D2 makes once its replay has `min_rows`.
_FIRST_UPDATES = 2


def learner_tables(kind: str, arguments: argparse.Namespace) -> Tables:
    """The configuration of a kind's learner."""
    load = read_load(arguments)
    make: dict[str, Callable[[], Tables]] = {
        "null": lambda: null_tables(load),
        "inference": lambda: inference_tables(load),
        "vtrace": lambda: vtrace_tables(load, Training(arguments.unroll, arguments.batch)),
        "r2d2": lambda: r2d2_tables(
            load, Training(arguments.r2d2_unroll, arguments.r2d2_batch, arguments.lstm)
        ),
    }
    return make[kind]()


def start_servers(processes: Processes, arguments: argparse.Namespace) -> dict[str, Server]:
    """Starts what is to be measured, all at once; returns when every one listens."""
    servers = {}
    for kind in arguments.kinds:
        if kind == ECHO:
            command = [sys.executable, "-m", "tools.bench.echo"]
            servers[kind] = processes.start_server(ECHO, command)
        else:
            tables = learner_tables(kind, arguments)
            servers[kind] = processes.start_learner(
                tables, arguments.override, name=f"seed-learner ({kind})", listening=False
            )
    for server in servers.values():
        server.wait_until_listening()
    return servers


def client_command(endpoint: str, arguments: argparse.Namespace) -> list[str]:
    """The command line of one process with environments for the server there."""
    groups, rows = arguments.groups, arguments.rows_per_message
    if arguments.clients == "real":
        return envserver_command(endpoint, groups * rows, groups)
    return fake_servers_command(endpoint, groups, rows)


def measure_kind(
    kind: str, server: Server, processes: Processes, arguments: argparse.Namespace
) -> Window:
    """Lets the clients work for this server alone; returns what its metrics said."""
    command = client_command(server.endpoint, arguments)
    clients = [processes.start("client", command) for _ in range(arguments.servers)]
    for client in clients:
        client.wait_for("registered " if arguments.clients == "fake" else " environments for ")
    if kind in LEARNING:
        await_updates(server, processes)
    sleep_watching(arguments.warmup, processes)
    window = measure(server, arguments.seconds, processes.check)
    processes.stop(*clients)
    return window


def await_updates(server: Server, processes: Processes) -> None:
    """Returns once the learner has made its first updates since now."""
    lines = server.metrics()
    enough = (lines[-1]["learner_steps"] if lines else 0) + _FIRST_UPDATES
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not (lines := server.metrics()) or lines[-1]["learner_steps"] < enough:
        if time.monotonic() > deadline_s:
            raise server.failure(f"learned nothing within {START_TIMEOUT_S:g} s")
        sleep_watching(_POLL_S, processes)


def sleep_watching(seconds: float, processes: Processes) -> None:
    """Sleeps; raises ProcessFailed where a process ends meanwhile."""
    deadline_s = time.monotonic() + seconds
    while (left_s := deadline_s - time.monotonic()) > 0:
        processes.check()
        time.sleep(min(_POLL_S, left_s))


def summarize(windows: Sequence[Window], echoes: Sequence[Window]) -> dict[str, Any]:
    """Figures of one kind over its repetitions, as JSON takes them.

    Args:
        windows: One for each repetition.
        echoes: The echo's in the same repetitions; empty where it was not measured.
    """
    rows_per_s = [window.steps_per_s for window in windows]
    of_echo = [w.steps_per_s / echo.steps_per_s for w, echo in zip(windows, echoes, strict=False)]
    return {
        "rows_per_s": spread(rows_per_s),
        "of_echo": spread(of_echo) if of_echo else None,
        "cpu_us_per_row": spread([window.cpu_us_per_step for window in windows]),
        "updates_per_s": spread([window.updates_per_s for window in windows]),
        "metrics": median_means(windows),
    }


def make_table(figures: dict[str, dict[str, Any]]) -> str:
    """The table of all kinds; a MB is 10^6 bytes of pixels."""
    rows = []
    for kind, of_kind in figures.items():
        median = of_kind["rows_per_s"].median
        updates = of_kind["updates_per_s"].median
        batch = of_kind["metrics"].get("inference_batch_mean")
        rows.append([
            kind,
            of_kind["rows_per_s"].text(),
            f"{median * FRAMES_PER_STEP:,.0f}",
            f"{median * 84 * 84 / 1e6:,.1f}",
            of_kind["of_echo"].text("{:.3f}") if of_kind["of_echo"] else "-",
            f"{of_kind['cpu_us_per_row'].median:,.1f}",
            f"{batch:.0f}" if batch else "-",
            f"{updates:.2f}" if updates else "-",
        ])  # fmt: skip
    header = ["", "rows/s", "fps", "MB/s", "of echo", "CPU us/row", "rows/batch", "updates/s"]
    return format_table(header, rows)


def make_share_table(figures: dict[str, dict[str, Any]], thread: str) -> str:
    """The table of what a learner's thread spends its time on; empty where none says so."""
    prefix = f"{thread}_share_"
    shares = {
        kind: {name.removeprefix(prefix): share for name, share in of_kind["metrics"].items()
               if name.startswith(prefix)}
        for kind, of_kind in figures.items()
    }  # fmt: skip
    phases = list(dict.fromkeys(phase for of_kind in shares.values() for phase in of_kind))
    rows = [
        [kind, *(f"{of_kind[phase]:.1%}" if phase in of_kind else "-" for phase in phases)]
        for kind, of_kind in shares.items()
        if of_kind
    ]
    return format_table([f"{thread} thread", *phases], rows) if rows else ""


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("synthetic", __doc__)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is measured")
    add("--clients", choices=["fake", "real"], default="fake", help="environment servers")
    add_load_options(parser, groups=2, rows=32)
    add("--unroll", type=positive, default=20, help="V-trace: steps of an unroll")
    add("--batch", type=positive, default=4, help="V-trace: unrolls of an update")
    add("--r2d2-unroll", type=positive, default=40, help="R2D2: steps; half as many of burn-in")
    add("--r2d2-batch", type=positive, default=8, help="R2D2: unrolls of an update")
    add("--lstm", type=positive, default=512, help="R2D2: units")
    add("--seconds", type=positive_seconds, default=5.0, help="measured in each repetition")
    add("--warmup", type=positive_seconds, default=1.0, help="seconds before those measured")
    add("--repetitions", type=positive, default=3, help="of every kind, in turns")
    add_override(parser, "the learners' configurations")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures everything and prints the table."""
    origin = describe_origin(arguments.device)
    print(origin_line(origin))
    print(
        f"{arguments.servers} processes of {arguments.clients} environment servers with "
        f"{arguments.groups} groups of {arguments.rows_per_message}; {arguments.torso}"
    )
    windows: dict[str, list[Window]] = {kind: [] for kind in arguments.kinds}
    with Processes() as processes:
        servers = start_servers(processes, arguments)
        for _ in range(arguments.repetitions):
            for kind, server in servers.items():
                windows[kind].append(measure_kind(kind, server, processes, arguments))
    echoes = windows.get(ECHO, [])
    figures = {kind: summarize(measured, echoes) for kind, measured in windows.items()}
    print(make_table(figures))
    for thread in ("inference", "learner"):
        if table := make_share_table(figures, thread):
            print(f"\n{table}")
    if arguments.json is not None:
        settings = settings_of(arguments)
        write_json(arguments.json, origin, {"settings": settings, "kinds": figures})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    return run_plainly("synthetic", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
