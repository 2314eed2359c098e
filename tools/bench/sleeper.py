"""Whether an environment that takes 10 s for a step holds up those of other environment servers.

    python -m tools.bench.sleeper

Fake environment servers send at a fixed rate (an open loop), as in `tools.bench.latency`, and note
when each message's actions were there, counted from when the message was due. They do so alone,
then beside a real environment server whose environment sleeps in every step, alone again, and so
on. Each time is compared with the time alone just before it; that of two times alone is a control,
which says how much the measurement itself scatters. Nothing is learned.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from tools.bench.latency import Answered, Percentiles, offer_load, spread_percentiles
from tools.bench.learner_configs import Tables, add_load_options, inference_tables, read_load
from tools.bench.processes import Processes, Server, envserver_command
from tools.bench.report import (
    Spread,
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

# Room for sleepers that had to be killed, until the learner has noticed.
_ROOM = 8


def learner_tables(arguments: argparse.Namespace) -> Tables:
    """A learner that acts and never learns, whose real environments sleep."""
    load = read_load(arguments)
    tables = inference_tables(dataclasses.replace(load, max_envs=load.max_envs + _ROOM))
    tables["environment"]["kwargs"]["sleep_s"] = arguments.sleep_s
    return tables


def measure_beside(
    learner: Server, processes: Processes, arguments: argparse.Namespace
) -> Answered:
    """The load beside an environment server whose only environment sleeps in every step."""
    sleeper = processes.start("sleeper", envserver_command(learner.endpoint, 1, 1))
    sleeper.wait_for("running 1 environments")
    answered = _measure_alone(learner, processes, arguments)
    sleeper.check()
    processes.stop(sleeper)
    return answered


def _measure_alone(
    learner: Server, processes: Processes, arguments: argparse.Namespace
) -> Answered:
    rows_per_s = arguments.messages_per_s * arguments.rows_per_message
    return offer_load(rows_per_s, learner, processes, arguments)


def summarize(alone: Sequence[Answered], beside: Sequence[Answered]) -> dict[str, Any]:
    """Figures, as JSON takes them.

    Args:
        alone: In the order of time, one more than `beside`.
        beside: Each of them between two of `alone`.
    """
    return {
        "alone": _figures_of(alone),
        "beside": _figures_of(beside),
        "beside_ratio": _ratios([one.due for one in beside], [one.due for one in alone[:-1]]),
        "control_ratio": _ratios([one.due for one in alone[1:]], [one.due for one in alone[:-1]]),
    }


def _figures_of(answered: Sequence[Answered]) -> dict[str, Any]:
    return {
        "answered_share": spread([one.share for one in answered]),
        "due_ms": spread_percentiles([one.due for one in answered]),
    }


def _ratios(after: Sequence[Percentiles], before: Sequence[Percentiles]) -> dict[str, Spread]:
    """Of each percentile, over the one of the time just before."""
    return {
        name: spread([
            getattr(late, name) / getattr(early, name)
            for late, early in zip(after, before, strict=True)
        ])
        for name in Percentiles._fields
    }  # fmt: skip


def make_table(figures: dict[str, Any]) -> str:
    """The table, in milliseconds."""
    rows = []
    for name, text in (("alone", "alone"), ("beside", "beside a sleeper")):
        of_kind = figures[name]
        times = [time_ms.text("{:.2f}") for time_ms in of_kind["due_ms"].values()]
        rows.append([text, of_kind["answered_share"].text("{:.1%}"), *times])
    for name, text in (
        ("beside_ratio", "beside / alone before"), ("control_ratio", "alone / alone before"),
    ):  # fmt: skip
        rows.append([text, "", *(ratio.text("{:.2f}") for ratio in figures[name].values())])
    return format_table(["", "answered", "p50 ms", "p99 ms", "max ms"], rows)


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("sleeper", __doc__)
    add = parser.add_argument
    # Many groups: how a few fall together differs from time to time.
    add_load_options(parser, groups=8, rows=8)
    add("--messages-per-s", type=positive, default=200, help="of all fake environment servers")
    add("--sleep-s", type=positive_seconds, default=10.0, help="of every step of the sleeper")
    add("--seconds", type=positive_seconds, default=10.0, help="of each time alone and beside")
    add("--warmup", type=positive_seconds, default=1.0, help="seconds before those measured")
    add("--repetitions", type=positive, default=5, help="times beside the sleeper")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures everything and prints the table."""
    origin = describe_origin(arguments.device)
    print(origin_line(origin))
    beside: list[Answered] = []
    with Processes() as processes:
        learner = processes.start_learner(learner_tables(arguments))
        # The learner's first batches are slow ones.
        _measure_alone(learner, processes, arguments)
        alone = [_measure_alone(learner, processes, arguments)]
        for _ in range(arguments.repetitions):
            beside.append(measure_beside(learner, processes, arguments))
            alone.append(_measure_alone(learner, processes, arguments))
    figures = summarize(alone, beside)
    print(
        f"{arguments.torso}, {arguments.messages_per_s} messages/s of {arguments.rows_per_message} "
        f"rows; one environment that takes {arguments.sleep_s:g} s for a step\n"
    )
    print(make_table(figures))
    if arguments.json is not None:
        write_json(arguments.json, origin, {"settings": settings_of(arguments), **figures})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    return run_plainly("sleeper", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
