"""Training of Atari Pong beside other libraries, in turns on the same cores.

    python -m tools.bench.peers --peer stable-baselines3=VENV/bin/python ...

Everyone trains for real, with images of 84×84 in gray, a stack of 4, action repeat 4 and the
network of the DQN article in Nature (1.7 million weights). A step is an agent's decision; it counts
once it has been learned from. Start-up and the first seconds of learning are left out, and the time
that is measured begins and ends with an update. One after the other is measured, then all again.
Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.bench.peers.figures import OURS, compare, format_comparison
from tools.bench.peers.marks import read_marks, steady_window, steps_per_s
from tools.bench.peers.starts import STARTS, Start, command, parse_peer
from tools.bench.processes import (
    ROOT,
    START_TIMEOUT_S,
    Process,
    Processes,
    ProcessFailed,
    measure,
    usable_cores,
)
from tools.bench.report import (
    add_override,
    describe_origin,
    origin_line,
    positive,
    positive_seconds,
    run_plainly,
    settings_of,
    start_parser,
    write_json,
)
from tools.bench.roofline import wait_until_learning

_CONFIG = ROOT / "configs" / "pong_vtrace.toml"
_SETTLE_SHARE = 0.25
_LOG_INTERVAL_S = 0.25
_POLL_S = 0.1
# Never reached: the run must not end by itself.
_ENDLESS_FRAMES = 10**12


class Entry(NamedTuple):
    """A way to train with a peer that is installed.

    Attributes:
        start: From `STARTS`.
        python: Of the peer.
        threads: Of torch.
        name: In the table.
    """

    start: Start
    python: Path
    threads: int
    name: str


def make_entries(peers: Sequence[tuple[str, Path]], threads: Sequence[int]) -> list[Entry]:
    """Returns all starts of these peers, each with each number of threads."""
    return [
        Entry(start, python, number, f"{start.name}, torch threads: {number}")
        for name, python in peers
        for start in STARTS[name]
        for number in threads
    ]


def measure_ours(overrides: Sequence[str], seconds: float, processes: Processes) -> float:
    """Returns steps per second of the real command, in float32 unless the overrides differ."""
    learner = processes.start_learner(
        _CONFIG,
        [
            "--network.torso", "nature", "--total-env-frames", str(_ENDLESS_FRAMES),
            "--log-interval-s", str(_LOG_INTERVAL_S), *overrides,
        ],
        name=OURS,
    )  # fmt: skip
    wait_until_learning(learner, processes.check)
    settled_s = time.monotonic() + _SETTLE_SHARE * seconds
    while time.monotonic() < settled_s:
        processes.check()
        time.sleep(_POLL_S)
    speed = measure(learner, seconds, processes.check).steps_per_s
    processes.stop(learner)
    return speed


def measure_peer(entry: Entry, seconds: float, processes: Processes) -> float:
    """Returns a peer's steps per second.

    Raises:
        ProcessFailed: where it ends, or has not learned for long.
    """
    with tempfile.TemporaryDirectory(dir=processes.folder, ignore_cleanup_errors=True) as folder:
        words = command(entry.start, entry.python, entry.threads, Path(folder))
        with running(entry.name, words, processes) as process:
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
                time.sleep(_POLL_S)


@contextlib.contextmanager
def running(name: str, words: Sequence[str], processes: Processes) -> Iterator[Process]:
    """Starts a command and, at the end, stops it with all processes that it has started."""
    process = processes.start(name, words)
    try:
        yield process
    finally:
        # The workers of a peer may outlive it: its group is killed once it has ended itself.
        processes.stop(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def measure_in_turns(
    entries: Sequence[Entry], arguments: argparse.Namespace, processes: Processes
) -> dict[str, list[float]]:
    """Returns steps per second of each repetition, by name, and says them as they come.

    A peer that fails is left out, so that the others' figures are not lost with it.

    Raises:
        ProcessFailed: where all of them fail.
    """
    steps_per_s: dict[str, list[float]] = {OURS: [], **{entry.name: [] for entry in entries}}

    def keep(name: str, speed: float) -> None:
        """SharedState and says a speed, in steps per second."""
        steps_per_s[name].append(speed)
        print(f"{name}: {speed:,.0f} steps/s", flush=True)

    for _ in range(arguments.repetitions):
        keep(OURS, measure_ours(arguments.override, arguments.seconds, processes))
        for entry in [entry for entry in entries if entry.name in steps_per_s]:
            try:
                keep(entry.name, measure_peer(entry, arguments.seconds, processes))
            except ProcessFailed as failed:
                del steps_per_s[entry.name]
                print(f"left out: {failed}", file=sys.stderr, flush=True)
                if len(steps_per_s) == 1:
                    raise
    return steps_per_s


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("peers", __doc__)
    parser.add_argument(
        "--peer", action="append", required=True, metavar="NAME=PATH_TO_PYTHON",
        help=f"a peer, NAME of {', '.join(STARTS)}, and the Python it is installed in",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=positive, nargs="+", default=[len(usable_cores())],
        help="of torch in the peers; with more than one number, each is measured",
    )  # fmt: skip
    parser.add_argument("--seconds", type=positive_seconds, default=40.0, help="of each run")
    parser.add_argument("--repetitions", type=positive, default=3, help="of each run")
    add_override(parser, "our configuration")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        peers = [parse_peer(text) for text in arguments.peer]
    except ValueError as error:
        parser.error(str(error))
    entries = make_entries(peers, arguments.threads)

    def measure_all() -> None:
        """Measures, prints, and writes the file for the figures."""
        origin = describe_origin()
        print(origin_line(origin), flush=True)
        with Processes() as processes:
            speeds = measure_in_turns(entries, arguments, processes)
        comparison = compare(speeds)
        print(f"\n{format_comparison(comparison)}")
        if arguments.json is not None:
            figures = {
                "settings": settings_of(arguments),
                "steps_per_s": speeds,
                "comparison": comparison._asdict(),
            }
            write_json(arguments.json, origin, figures)

    return run_plainly("peers", measure_all)


if __name__ == "__main__":
    sys.exit(main())
