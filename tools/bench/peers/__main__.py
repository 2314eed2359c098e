"""How fast do other libraries train Atari Pong on the same cores? In steps a second, in turns.

    python -m tools.bench.peers --peer 'NAME=COMMAND ...' [--peer ...]

A peer is a command that trains and, after each update, says with `tools.bench.peers.marks` how far
it is. RUN_DIR in it stands for an empty folder. `tools.bench.peers.sample_factory` makes such a
command of Sample Factory's examples; docs/performance.md has the words. Ours is
configs/pong_vtrace.toml with the Nature network, and what follows --override.

To be compared, a peer needs images of 84x84 in gray, a stack of 4, action repeat 4 and the network
of the DQN article in Nature (1.7 million weights). A step is an agent's decision; it counts once it
has been learned from. Start-up and the first seconds of learning are left out, and the time that is
measured begins and ends with an update. One after the other is measured, then all again; a peer
that fails is left out. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.bench.peers.marks import read_marks, steady_window, steps_per_s
from tools.processes import POLL_S, ROOT, START_TIMEOUT_S, Process, Processes, ProcessFailed
from tools.report import Results, add_override, add_times, run_command, spread, start_parser
from tools.watching import measure, wait_until_learning, wait_watching

OURS = "seed-learner"
_CONFIG = ROOT / "configs" / "pong_vtrace.toml"
_SETTLE_SHARE = 0.25


def parse_peer(text: str) -> tuple[str, list[str]]:
    """The parts of `NAME=COMMAND`, for argparse."""
    name, _, command = text.partition("=")
    if not name or not command:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=COMMAND")
    return name, shlex.split(command)


def measure_ours(overrides: Sequence[str], seconds: float, processes: Processes) -> float:
    """Returns steps per second of the real command."""
    options = ["--network.torso", "nature", *overrides]
    learner = processes.start_learner(_CONFIG, options, name=OURS)
    wait_until_learning(learner, processes.check)
    wait_watching(_SETTLE_SHARE * seconds, processes.check)
    speed = measure(learner, seconds, processes.check).steps_per_s
    processes.stop(learner)
    return speed


def measure_peer(name: str, command: Sequence[str], seconds: float, processes: Processes) -> float:
    """Returns a peer's steps per second.

    Raises:
        ProcessFailed: where it ends, or has not learned for long.
    """
    with running(name, command, processes) as process:
        # A peer may take so long to start, and again between two updates.
        deadline_s = time.monotonic() + 2 * START_TIMEOUT_S + (1 + _SETTLE_SHARE) * seconds
        while True:
            marks = read_marks(process.text)
            window = steady_window(marks, _SETTLE_SHARE * seconds, seconds)
            if window is not None:
                return steps_per_s(*window)
            process.check()
            if time.monotonic() > deadline_s:
                raise process.failure(f"had {len(marks)} updates only and is too slow")
            time.sleep(POLL_S)


@contextlib.contextmanager
def running(name: str, command: Sequence[str], processes: Processes) -> Iterator[Process]:
    """Starts a command and, at the end, stops it with all processes that it has started."""
    process = processes.start(name, command)
    try:
        yield process
    finally:
        # The workers of a peer may outlive it: its group is killed once it has ended itself.
        processes.stop(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def measure_in_turns(
    peers: Mapping[str, Sequence[str]], options: argparse.Namespace, processes: Processes
) -> dict[str, list[float]]:
    """Returns steps per second of each repetition, by name; without the peers that fail.

    Raises:
        ProcessFailed: where all of them fail.
    """
    speeds: dict[str, list[float]] = {OURS: [], **{name: [] for name in peers}}
    for _ in range(options.repetitions):
        speeds[OURS].append(measure_ours(options.override, options.seconds, processes))
        for name in [name for name in peers if name in speeds]:
            try:
                speed = measure_peer(name, peers[name], options.seconds, processes)
            except ProcessFailed as failed:
                del speeds[name]
                print(f"left out: {failed}", file=sys.stderr, flush=True)
                if len(speeds) == 1:
                    raise
            else:
                speeds[name].append(speed)
    return speeds


def compare(speeds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Speeds by name, the fastest first, and ours over each in the same repetition."""
    figures = {
        name: {
            "steps_per_s": spread(values),
            "ratio": spread([ours / it for ours, it in zip(speeds[OURS], values, strict=True)]),
        }
        for name, values in speeds.items()
    }
    return dict(sorted(figures.items(), key=lambda item: -item[1]["steps_per_s"].median))


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("peers", __doc__)
    parser.add_argument("--peer", action="append", type=parse_peer, required=True,
                        metavar="NAME=COMMAND", help="for the table, and its words")  # fmt: skip
    add_times(parser, seconds=40.0)
    add_override(parser)
    return parser


def measure_all(options: argparse.Namespace) -> Results:
    """All, in turns."""
    with Processes() as processes:
        speeds = measure_in_turns(dict(options.peer), options, processes)
    figures = compare(speeds)
    rows = [
        [name, of["steps_per_s"].text(), of["ratio"].text("{:.2f}")]
        for name, of in figures.items()
    ]
    return Results(("", "steps/s", f"{OURS} / it"), rows, {"runs": speeds, "comparison": figures})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
