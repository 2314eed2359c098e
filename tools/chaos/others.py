"""What the kill of an environment server costs the others.

    python -m tools.chaos.others

The training of `tools.chaos`, with many environment servers. One of them is killed in the middle
of a step, again and again, each time only once everything has run undisturbed for a while; its
successor is started when the window after the kill has ended. The others' pace is that of their
unrolls that were learned from. It is compared in

    a kill        the window after it, over the one before
    the restart   the window after the successor's start, which takes cores, over the one before the
                  kill
    nothing       a control, two windows without anything: how much the measurement itself scatters

Environments sleep in every step so that cores have time to spare: else the others would get the
time of the one that is killed. "cores busy" says how much was left. A server has one group, which
always waits for its actions, so that a learner that answers later shows. The successor is back in
training when each of its environments has given a whole unroll.

Exit codes: 0 done, whatever the ratios; 1 an unroll was wrong, a server was not back after 60 s,
or the learner ended by itself; 130 stopped.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from tools.bench.processes import Processes, ProcessFailed, usable_cores
from tools.bench.report import (
    Spread,
    describe_origin,
    format_table,
    origin_line,
    positive,
    positive_seconds,
    settings_of,
    spread,
    start_parser,
    write_json,
)
from tools.bench.thread_times import read_busy_s
from tools.chaos.chaos import RECOVERY_LIMIT_S, Unready, is_back, wait_until_ready
from tools.chaos.faults import Fault
from tools.chaos.pace import Ratios, TooSlow, Trial, compare
from tools.chaos.proxy import FaultProxy, free_port
from tools.chaos.report import Result, find_failures, read_result
from tools.chaos.training import Server, Setup, Training

_EXIT_DONE, _EXIT_FAILED, _EXIT_INTERRUPTED = 0, 1, 130
_NEVER_S = 1e9
_LOOK_INTERVAL_S = 0.02
_LOG_INTERVAL_S = 0.1
# Whole unrolls are counted: short ones scatter less.
_UNROLL_LENGTH, _BATCH_SIZE = 5, 16
# After a recovery, before the next trial begins.
_SETTLE_S = 1.0
_AFTER = {"kill": "a kill", "restart": "the restart", "control": "nothing (control)"}


def kill_one_by_one(training: Training, kills: int, window_s: float, seed: int) -> list[Trial]:
    """Kills random environment servers of a training that runs, one after the other.

    Args:
        training: It starts servers anew only after `window_s`.
        kills: How many.
        window_s: Length of a window: of one before a trial's control, of two up to its kill.
        seed: Of the choice.
    """
    chance = random.Random(seed)
    trials = [_kill_one(training, chance.choice(training.servers), window_s) for _ in range(kills)]
    _watch(training, window_s + _SETTLE_S)
    return trials


def _kill_one(training: Training, victim: Server, window_s: float) -> Trial:
    _watch(training, _SETTLE_S + window_s)
    control_s, busy_s = training.now_s(), read_busy_s()
    _watch(training, 2 * window_s)
    killed, killed_s = victim.process, training.now_s()
    cores_busy = (read_busy_s() - busy_s) / (killed_s - control_s)
    training.signal(killed, signal.SIGKILL)
    while victim.process is killed:
        _watch(training, _LOOK_INTERVAL_S)
    fault = Fault("kill-envserver", (victim.index,), window_s, killed_s, training.now_s())
    assert fault.ended_s is not None
    while training.now_s() < fault.ended_s + RECOVERY_LIMIT_S:
        _watch(training, _LOOK_INTERVAL_S)
        if is_back(training, fault.servers, fault.ended_s):
            fault.recovered_s = training.now_s()
            break
    return Trial(fault, control_s, cores_busy)


def _watch(training: Training, seconds: float) -> None:
    """Looks at the training for so long, at least once."""
    end_s = training.now_s() + seconds
    while True:
        training.look()
        if training.now_s() >= end_s:
            return
        time.sleep(_LOOK_INTERVAL_S)


def measure(arguments: argparse.Namespace) -> tuple[list[Trial], list[Ratios], Result]:
    """All trials of a training, their ratios, and what else is known of it."""
    setup = Setup(
        arguments.servers, arguments.envs, arguments.seed, _NEVER_S,
        ("--environment.kwargs.sleep-s", str(arguments.sleep_s),
         "--log-interval-s", str(_LOG_INTERVAL_S),
         "--learner.unroll-length", str(_UNROLL_LENGTH), "--learner.batch-size", str(_BATCH_SIZE),
         "--inference.max-envs", str(2 * arguments.servers * arguments.envs)),
        groups=1, restart_pause_s=arguments.window_s,
    )  # fmt: skip
    port = free_port()
    with Processes() as processes, FaultProxy("127.0.0.1", port, setup.servers) as proxy:
        training = Training(setup, processes, proxy, port)
        wait_until_ready(training)
        trials = kill_one_by_one(training, arguments.kills, arguments.window_s, arguments.seed)
        exit_code = training.stop_learner()
        result = read_result(training, [trial.fault for trial in trials], exit_code)
        ratios = [compare(trial, training.progress, arguments.window_s) for trial in trials]
        return trials, ratios, result


def summarize(trials: Sequence[Trial], ratios: Sequence[Ratios], result: Result) -> dict[str, Any]:
    """The figures, as JSON takes them."""
    times_s = [trial.fault.time_to_recover_s for trial in trials]
    return {
        "ratios": {
            name: spread([getattr(of_trial, name) for of_trial in ratios])
            for name in Ratios._fields
        },
        "back_s": [time_s for time_s in times_s if time_s is not None],
        "cores_busy": spread([trial.cores_busy for trial in trials]),
        "unrolls_checked": result.unrolls_checked,
        "unrolls_wrong": result.unrolls_wrong,
        "trials": [
            {**vars(trial.fault), "control_s": trial.control_s, "ratios": of_trial._asdict()}
            for trial, of_trial in zip(trials, ratios, strict=True)
        ],
        "failures": find_failures(result),
    }


def to_text(figures: dict[str, Any], window_s: float) -> str:
    """The report as a person reads it."""
    ratios: dict[str, Spread] = figures["ratios"]
    header = ["after", f"others' pace in {window_s:g} s, over {window_s:g} s before"]
    rows = [[_AFTER[name], ratio.text("{:.2f}")] for name, ratio in ratios.items()]
    lines = [format_table(header, rows), ""]
    back_s, kills = figures["back_s"], len(figures["trials"])
    if back_s:
        lines.append(
            f"back in training after the restart: {len(back_s)} of {kills}, median "
            f"{statistics.median(back_s):.1f} s, most {max(back_s):.1f} s"
        )
    lines += [
        f"unrolls: {figures['unrolls_checked']:,} checked, {figures['unrolls_wrong']} wrong",
        f"cores busy: {figures['cores_busy'].text('{:.2f}')} of {len(usable_cores())}",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parse(argv)
    origin = describe_origin()
    print(origin_line(origin))
    try:
        figures = summarize(*measure(arguments))
    except (ProcessFailed, Unready, TooSlow) as error:
        print(f"others: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except KeyboardInterrupt:
        print("others: stopped", file=sys.stderr)
        return _EXIT_INTERRUPTED
    print(
        f"{arguments.servers} environment servers with {arguments.envs} environments each, "
        f"{arguments.sleep_s:g} s a step; {arguments.kills} kills\n\n"
        f"{to_text(figures, arguments.window_s)}"
    )
    if arguments.json is not None:
        write_json(arguments.json, origin, {"settings": settings_of(arguments), **figures})
    for failure in figures["failures"]:
        print(f"FAILED: {failure}")
    return _EXIT_FAILED if figures["failures"] else _EXIT_DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = start_parser("others", __doc__, package="tools.chaos")
    add = parser.add_argument
    add("--kills", type=positive, default=20, help="of environment servers, each with a control")
    add("--servers", type=positive, default=16, help="environment servers")
    add("--envs", type=positive, default=8, help="environments in each")
    add("--sleep-s", type=positive_seconds, default=0.04, help="of every step")
    add("--window-s", type=positive_seconds, default=2.0, help="what is compared")
    add("--seed", type=positive, default=1, help="of the training, and of who is killed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
