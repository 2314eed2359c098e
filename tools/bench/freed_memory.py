"""What it costs to give freed memory back to the system: updates with and without it.

    python -m tools.bench.freed_memory

Each repetition is a process of its own, in turns: R2D2's loss and gradient on the CPU, in a thread
as the learner's, with `keep_freed_memory` (`seed.process.tuning`) and without. CPU time is counted,
which other loads of the machine disturb less than wall time. torch has one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time

import torch

from seed.algorithms import r2d2
from seed.config.schema import NetworkConfig
from seed.process.tuning import keep_freed_memory
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec
from tools.bench.report import (
    describe_origin,
    origin_line,
    settings_of,
    start_parser,
    write_json,
)

_FRAME, _ACTIONS = SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), 6)
_LSTM_SIZE = 128


def make_unroll(length: int, batch: int, burn_in: int, stack: int) -> Unroll:
    """B unrolls of Atari's form, all zeros."""
    rows = burn_in + length + 1
    zeros = torch.zeros(rows, batch)  # [K + T + 1, B] float32
    none, numbers = zeros.bool(), zeros.long()
    images = torch.zeros(rows, batch, stack, *_FRAME.shape, dtype=torch.uint8)
    return Unroll(
        rows=Rows(images, numbers, zeros, none, none, none),
        actions=numbers,
        behaviour={},
        policy_versions=numbers,
        agent_state=torch.zeros(batch, 2 * _LSTM_SIZE),
        importance=torch.ones(batch),
        burn_in=burn_in,
    )


def measure_update(arguments: argparse.Namespace) -> dict[str, float]:
    """Returns CPU milliseconds and page faults of one update, the mean of several."""
    config = r2d2.Config(dueling_size=128)
    network = NetworkConfig(
        torso="impala_shallow", frame_stack=arguments.stack, lstm_size=_LSTM_SIZE
    )
    agent, target = (r2d2.make_agent(_FRAME, _ACTIONS, network, config) for _ in range(2))
    unroll = make_unroll(arguments.unroll, arguments.batch, arguments.burn_in, arguments.stack)

    def update() -> None:
        """Loss and gradient of one batch."""
        r2d2.loss(agent, target, unroll, config).loss.backward()  # type: ignore[no-untyped-call]

    update()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began_s = time.process_time()
    for _ in range(arguments.updates):
        update()
    return {
        "cpu_ms": (time.process_time() - began_s) * 1e3 / arguments.updates,
        "page_faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
        / arguments.updates,
    }


def measure_in_thread(arguments: argparse.Namespace) -> None:
    """Prints the figures of a process as JSON."""
    torch.set_num_threads(1)
    if arguments.only == "kept":
        keep_freed_memory()
    thread = threading.Thread(target=lambda: print(json.dumps(measure_update(arguments))))
    thread.start()
    thread.join()


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = start_parser("freed_memory", __doc__)
    parser.add_argument("--batch", type=int, default=16, help="unrolls")
    parser.add_argument("--unroll", type=int, default=20, help="steps of an unroll")
    parser.add_argument("--burn-in", type=int, default=5, help="rows")
    parser.add_argument("--stack", type=int, default=2, help="frames seen together")
    parser.add_argument("--updates", type=int, default=10, help="updates per process")
    parser.add_argument("--repetitions", type=int, default=5, help="processes of each kind")
    parser.add_argument("--only", choices=["kept", "returned"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prints medians for both, or, in a process of its own, the figures of one."""
    arguments = parse_arguments()
    if arguments.only:
        measure_in_thread(arguments)
        return
    origin = describe_origin()
    print(origin_line(origin))
    figures: dict[str, list[dict[str, float]]] = {"returned": [], "kept": []}
    for _ in range(arguments.repetitions):
        for kind, measured in figures.items():
            command = [sys.executable, "-m", "tools.bench.freed_memory", *sys.argv[1:]]
            done = subprocess.run([*command, "--only", kind], check=True, stdout=subprocess.PIPE)
            measured.append(json.loads(done.stdout))
    medians = {
        kind: {name: statistics.median(m[name] for m in measured) for name in measured[0]}
        for kind, measured in figures.items()
    }
    print(f"{'freed memory':>12}  {'CPU ms per update':>17}  {'page faults':>11}")
    for kind, median in medians.items():
        print(f"{kind:>12}  {median['cpu_ms']:>17.1f}  {median['page_faults']:>11.0f}")
    if arguments.json is not None:
        settings = settings_of(arguments)
        write_json(arguments.json, origin, {"settings": settings, "medians": medians})


if __name__ == "__main__":
    main()
