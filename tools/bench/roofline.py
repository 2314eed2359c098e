"""How much of what the cores could do a run does, and where the rest of their time goes.

    python -m tools.bench.roofline [CONFIG ...] [--override --network.torso nature ...]

With all cores busy at the same thing, a process per core, each with one torch thread:

- e, core-microseconds of a bare environment step with random actions
- i, of a row of bare acting, in batches as large as the run's were in the mean
- l, of bare learning per step: of a row, times the replay ratio where there is a replay, times the
  share of environments that are learned from

A machine of so many cores can do cores / (e + i + l) steps per second at best, without what runs on
a GPU. The real run is the real command with its own environment servers, watched once it learns.
Real and bare repetitions take turns. Core time of the real run is read from /proc by thread, and
what its threads were doing from its metrics. The step that starts an episode counts as bare work,
but not as a step of the real run. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envservers.environments.factory import InvalidEnvironment, describe
from seed.config.loading import parse_command_line
from seed.config.schema import Config, ConfigError
from seed.contract.loading import load_algorithm_config
from seed.device.names import resolve_device
from seed.run.local_servers import server_count
from tools.bench.bare_work import Kind, Task
from tools.bench.processes import (
    START_TIMEOUT_S,
    Processes,
    Server,
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
from tools.bench.roofline_figures import (
    IDLE,
    LETTERS,
    OTHERS,
    Real,
    Repetition,
    core_times_us,
    describe_disturbance,
    format_core_times,
    format_phases,
    format_summary,
    phase_shares,
    summarize,
)
from tools.bench.thread_times import read_busy_s, read_threads, sum_groups
from tools.bench.workers import Cost, measure_cost, start_workers

# Shares of --seconds: before the real run is watched, and for each bare work.
_WARM_UP_SHARE, _BARE_SHARE = 0.25, 0.2
_LOG_INTERVAL_SHARE, _LONGEST_LOG_INTERVAL_S = 0.1, 1.0
_POLL_S = 0.05
# Never reached: the run must not end by itself.
_ENDLESS_FRAMES = 10**12


class Setting(NamedTuple):
    """A configuration to be measured.

    Attributes:
        words: The command line of `seed-learner`: a file and what overrides it.
        config: What they say.
        on_gpu: The work that a GPU does.
    """

    words: list[str]
    config: Config
    on_gpu: frozenset[Kind]


def read_setting(words: list[str]) -> Setting:
    """Reads the command line of a run.

    Raises:
        ConfigError: where it is no run, or has no environment servers of its own.
        InvalidEnvironment: where the environment cannot be made.
    """
    config = parse_command_line(words, load_algorithm_config).config
    if server_count(config) == 0:
        raise ConfigError("local_envservers = 0: expected at least 1, or nothing would be stepped")
    describe(dataclasses.asdict(config.environment))
    devices: dict[Kind, tuple[str, str]] = {
        "acting": (config.inference.device, "inference.device"),
        "learning": (config.learner.device, "learner.device"),
    }
    on_gpu = {kind for kind, name in devices.items() if resolve_device(*name).type != "cpu"}
    return Setting(words, config, frozenset(on_gpu))


def measure_setting(
    setting: Setting, arguments: argparse.Namespace, processes: Processes
) -> list[Repetition]:
    """Returns all repetitions; bare work has the batch of the run before, or `--batch`."""
    cores = len(usable_cores())
    repetitions = []
    with start_workers(cores, setting.words) as workers:
        for _ in range(arguments.repetitions):
            real = run_really(setting, arguments.seconds, processes)
            batch = arguments.batch or max(1, round(real.window.means["inference_batch_mean"]))
            costs: dict[Kind, Cost] = {}
            for kind in LETTERS:
                task = Task(kind, _BARE_SHARE * arguments.seconds, batch)
                costs[kind] = measure_cost(workers, task, 1 if kind in setting.on_gpu else cores)
            repetitions.append(Repetition(real, costs, setting.on_gpu))
    return repetitions


def run_really(setting: Setting, seconds: float, processes: Processes) -> Real:
    """Returns what the real command does once it learns, after some time to settle."""
    interval_s = min(_LONGEST_LOG_INTERVAL_S, _LOG_INTERVAL_SHARE * seconds)
    learner = processes.start_learner(
        Path(setting.words[0]),
        [
            *setting.words[1:], "--total-env-frames", str(_ENDLESS_FRAMES),
            "--log-interval-s", str(interval_s),
        ],
    )  # fmt: skip
    wait_until_learning(learner, processes.check)
    settled_s = time.monotonic() + _WARM_UP_SHARE * seconds
    while time.monotonic() < settled_s:
        processes.check()
        time.sleep(_POLL_S)
    threads, busy_s, started_s = read_threads(learner.pid), read_busy_s(), time.monotonic()
    window = measure(learner, seconds, processes.check)
    groups_s = sum_groups(threads, read_threads(learner.pid), learner.pid)
    elapsed_s, busy_s = time.monotonic() - started_s, read_busy_s() - busy_s
    processes.stop(learner)
    cores = {group: cpu_s / elapsed_s for group, cpu_s in groups_s.items()}
    busy = busy_s / elapsed_s
    # Ticks are coarse: small differences may come out below zero.
    cores[OTHERS] = max(0.0, busy - sum(cores.values()))
    cores[IDLE] = max(0.0, len(usable_cores()) - busy)
    return Real(window, cores)


def wait_until_learning(learner: Server, check: Callable[[], None]) -> None:
    """Waits for the first update.

    Raises:
        ProcessFailed: where there is none for long.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not any(line["learner_steps"] for line in learner.metrics()[-1:]):
        check()
        if time.monotonic() > deadline_s:
            raise learner.failure(
                f"has not learned within {START_TIMEOUT_S:g} s; a replay can begin earlier with "
                "--override --replay.min-rows ROWS"
            )
        time.sleep(_POLL_S)


def report(setting: Setting, repetitions: Sequence[Repetition]) -> dict[str, Any]:
    """Prints all tables of a configuration; returns its figures."""
    frames = setting.config.environment.frames_per_env_step
    summary = summarize(repetitions, len(usable_cores()), frames)
    times_us, shares = core_times_us(repetitions), phase_shares(repetitions)
    print(f"\n{' '.join(setting.words)}\n\n{format_summary(summary, setting.on_gpu)}")
    print(f"\n{format_core_times(times_us, summary, setting.on_gpu)}")
    if shares:
        print(f"\n{format_phases(shares, 1e6 / summary['steps_per_s'].median)}")
    if warning := describe_disturbance(repetitions):
        print(f"\n{warning}")
    return {
        "command": setting.words,
        "on_gpu": sorted(setting.on_gpu),
        "summary": summary,
        "core_us_per_step": times_us,
        "phase_shares": shares,
        "repetitions": [
            {
                "window": each.real.window._asdict(),
                "cores": each.real.cores,
                "costs": {kind: cost._asdict() for kind, cost in each.costs.items()},
            }
            for each in repetitions
        ],
    }


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("roofline", __doc__)
    parser.add_argument(
        "configs", metavar="CONFIG", nargs="*", default=["configs/pong_vtrace.toml"],
        help="files of runs with local environment servers",
    )  # fmt: skip
    parser.add_argument("--repetitions", type=positive, default=3, help="of each configuration")
    parser.add_argument(
        "--seconds", type=positive_seconds, default=20.0,
        help="for which the real run is watched; bare work takes a fifth of it each",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=positive, help="rows of bare acting, instead of the real run's mean"
    )
    add_override(parser, "the configurations")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables of every configuration; returns the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        settings = [read_setting([path, *arguments.override]) for path in arguments.configs]
    except (ConfigError, InvalidEnvironment) as error:
        parser.error(str(error))

    def measure_all() -> None:
        """Measures, prints, and writes the file for the figures."""
        origin = describe_origin("cuda" if any(setting.on_gpu for setting in settings) else "cpu")
        print(origin_line(origin), flush=True)
        with Processes() as processes:
            figures = [
                report(setting, measure_setting(setting, arguments, processes))
                for setting in settings
            ]
        if arguments.json is not None:
            settings_used = settings_of(arguments)
            write_json(arguments.json, origin, {"settings": settings_used, "runs": figures})

    return run_plainly("roofline", measure_all)


if __name__ == "__main__":
    sys.exit(main())
