"""Does a training survive? Trains Catch while killing, stopping, cutting off and corrupting.

    python -m tools.chaos --minutes 10 --faults-per-minute 6

The real commands, with real sockets. Every row says which environment made it and when, and the
learner checks every unroll before it learns from it. A fault has been recovered from when every
environment that it kept from training has given a whole unroll made after its end; times are in
seconds. The kinds:

KINDS

Exit codes: 0 all is well; 1 an unroll was wrong, a fault was not recovered from within 60 s, a
learner's successor lost more than a checkpoint interval, or a learner ended by itself; 130 stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.chaos.chaos import Chaos, Unready
from tools.chaos.faults import KINDS
from tools.chaos.proxy import FaultProxy, free_port
from tools.chaos.report import HEADER, Result, find_failures, make_notes, make_rows, read_result
from tools.chaos.training import Setup, Training
from tools.processes import Processes, ProcessFailed
from tools.report import Results, positive, positive_seconds, run_command, start_parser

EXIT_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    failures: list[str] = []

    def measure(options: argparse.Namespace) -> Results:
        """The training under faults, and what must not have happened in it."""
        try:
            result = disturb(options)
        except Unready as error:
            raise ProcessFailed(str(error)) from None
        failures.extend(find_failures(result))
        notes = [*make_notes(result), *(f"FAILED: {failure}" for failure in failures)]
        figures = {**result.to_json(), "failures": failures}
        return Results(HEADER, make_rows(result.faults), figures, ["", *notes])

    return run_command(make_parser(), measure, argv) or (EXIT_FAILED if failures else 0)


def disturb(options: argparse.Namespace) -> Result:
    """Trains under faults."""
    setup = Setup(
        options.servers, options.envs, options.seed, options.checkpoint_interval_s,
        tuple(options.override),
    )  # fmt: skip
    port = free_port()
    with Processes() as processes, FaultProxy("127.0.0.1", port, setup.servers) as proxy:
        try:
            training = Training(setup, processes, proxy, port)
            chaos = Chaos(
                training, options.kinds, faults_per_minute=options.faults_per_minute,
                longest_s=options.longest_s, seed=options.seed,
            )  # fmt: skip
            try:
                chaos.run(60 * options.minutes, options.faults)
                exit_code = training.stop_learner()
            finally:
                training.wake_all()
            return read_result(training, chaos.faults, exit_code)
        finally:
            if options.keep is not None:
                shutil.copytree(processes.folder, options.keep, dirs_exist_ok=True)


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    width = max(map(len, KINDS))
    kinds = "\n".join(f"    {name:{width}}  {kind.text}" for name, kind in KINDS.items())
    parser = start_parser("chaos", (__doc__ or "").replace("KINDS", kinds), package="tools")
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
    add("--keep", type=Path, help="folder for all that the processes wrote")
    add("--override", nargs=argparse.REMAINDER, default=[],
        help="last: options of seed-learner")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
