"""Trains Catch while killing, stopping, cutting off and corrupting; says what came of it.

    python -m tools.chaos --minutes 10 --faults-per-minute 6

The real commands, with real sockets. Every row says which environment made it and when, and the
learner checks every unroll before it learns from it. A fault has been recovered from when every
environment that it kept from training has given a whole unroll made after its end. The kinds:

KINDS

Afterwards the same training runs undisturbed, for as many frames, up to --undisturbed-frames.
Exit codes: 0 all is well; 1 an unroll was wrong, a fault was not recovered from within 60 s, a
learner's successor lost more than a checkpoint interval, or a learner ended by itself; 130 stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.bench.processes import Processes, ProcessFailed
from tools.bench.report import (
    at_least_zero,
    describe_origin,
    origin_line,
    positive,
    positive_seconds,
    settings_of,
    start_parser,
    write_json,
)
from tools.chaos.chaos import Chaos, Unready
from tools.chaos.faults import KINDS
from tools.chaos.proxy import FaultProxy, free_port
from tools.chaos.report import (
    Course,
    Result,
    find_failures,
    read_course,
    read_result,
    to_figures,
    to_text,
)
from tools.chaos.training import Setup, Training

EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parse(argv)
    try:
        result = _measure(arguments)
    except (ProcessFailed, Unready) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("chaos: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    origin = describe_origin()
    print(f"{origin_line(origin)}\n\n{to_text(result)}")
    if arguments.json is not None:
        figures = {"settings": settings_of(arguments), **to_figures(result)}
        write_json(arguments.json, origin, figures)
    failures = find_failures(result)
    for failure in failures:
        print(f"FAILED: {failure}")
    return EXIT_FAILED if failures else EXIT_DONE


def _measure(arguments: argparse.Namespace) -> Result:
    """The training under faults and, unless nobody wants it, the undisturbed one."""
    setup = Setup(
        arguments.servers, arguments.envs, arguments.seed, arguments.checkpoint_interval_s,
        tuple(arguments.override),
    )  # fmt: skip
    with Processes() as processes:
        try:
            result = _disturb(setup, arguments, processes)
            frames = min(result.course.env_frames, arguments.undisturbed_frames)
            if not frames:
                return result
            undisturbed = _train_undisturbed(setup, frames, processes)
            return dataclasses.replace(result, undisturbed=undisturbed)
        finally:
            if arguments.keep is not None:
                shutil.copytree(processes.folder, arguments.keep, dirs_exist_ok=True)


def _disturb(setup: Setup, arguments: argparse.Namespace, processes: Processes) -> Result:
    port = free_port()
    with FaultProxy("127.0.0.1", port, setup.servers) as proxy:
        training = Training(setup, processes, proxy, port)
        chaos = Chaos(
            training, arguments.kinds, faults_per_minute=arguments.faults_per_minute,
            longest_s=arguments.longest_s, seed=arguments.seed,
        )  # fmt: skip
        try:
            chaos.run(60 * arguments.minutes, arguments.faults)
            exit_code = training.stop_learner()
        finally:
            training.wake_all()
        result = read_result(training, chaos.faults, exit_code)
        processes.stop(*(server.process for server in training.servers))
    return result


def _train_undisturbed(setup: Setup, frames: int, processes: Processes) -> Course:
    """The same training, through the same links, without faults."""
    port = free_port()
    with FaultProxy("127.0.0.1", port, setup.servers) as proxy:
        training = Training(setup, processes, proxy, port)
        training.run_until(frames)
        training.stop_learner()
        processes.stop(*(server.process for server in training.servers))
    return read_course(training)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    width = max(map(len, KINDS))
    kinds = "\n".join(f"    {name:{width}}  {kind.text}" for name, kind in KINDS.items())
    parser = start_parser("chaos", __doc__.replace("KINDS", kinds), package="tools")
    add = parser.add_argument
    add("--minutes", type=positive_seconds, default=2.0, help="time in which faults begin")
    add("--faults-per-minute", type=positive_seconds, default=6.0, help="mean rate of faults")
    add("--faults", type=positive, help="end after so many, each kind as often as the others")
    add("--longest-s", type=positive_seconds, default=30.0,
        help="longest duration of a fault that lasts; short ones are as frequent")  # fmt: skip
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND",
        help="faults to inject")  # fmt: skip
    add("--servers", type=positive, default=4, help="environment servers")
    add("--envs", type=positive, default=8, help="environments in each")
    add("--checkpoint-interval-s", type=positive_seconds, default=5.0,
        help="seconds between the learner's checkpoints")  # fmt: skip
    add("--seed", type=positive, default=1, help="of faults and training")
    add("--undisturbed-frames", type=at_least_zero, default=1e6,
        help="most frames of the undisturbed training; 0 for none")  # fmt: skip
    add("--keep", type=Path, help="folder for all that the processes wrote")
    add("--override", nargs=argparse.REMAINDER, default=[],
        help="last: options of seed-learner")  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
