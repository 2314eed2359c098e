"""How much of what the cores could do does a run reach, and where does the rest of their time go?

    python -m tools.bench.roofline [CONFIG ...] [--override --network.torso nature ...]

With all cores busy at the same thing, a process per core, each with one torch thread:

- e, core-microseconds of a bare environment step with random actions
- i, of a row of bare acting, in batches as large as the run's were in the mean
- l, of bare learning per step: of a row, times the replay ratio where there is a replay, times the
  share of environments that are learned from

A machine of so many cores can do cores / (e + i + l) steps per second at best, without what runs on
a GPU. The real run is the real command with its own environment servers, watched once it learns.
Real and bare repetitions take turns. Core time of the real run is read from /proc by thread, in
core-microseconds per step and as a share of all cores; what its threads were doing is from its
metrics, as a share of the thread's time. The step that starts an episode counts as bare work, but
not as a step of the real run. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envservers.environments.factory import describe
from seed.config.loading import parse_command_line
from seed.config.schema import Config, ConfigError
from seed.contract.loading import load_algorithm_config
from seed.device.names import resolve_device
from seed.run.local_servers import server_count
from tools import report
from tools.bench.bare_work import Kind, Task
from tools.bench.roofline_figures import (
    HEADER,
    IDLE,
    LETTERS,
    OTHERS,
    Real,
    Repetition,
    core_times_us,
    describe_disturbance,
    make_rows,
    phase_shares,
    summarize,
)
from tools.bench.thread_times import read_busy_s, read_threads, sum_groups
from tools.bench.workers import Cost, Workers
from tools.processes import Processes
from tools.watching import measure, usable_cores, wait_until_learning, wait_watching

# Shares of --seconds: before the real run is watched, and for each bare work.
_WARM_UP_SHARE, _BARE_SHARE = 0.25, 0.2
_LOG_INTERVAL_SHARE, _LONGEST_LOG_INTERVAL_S = 0.1, 1.0


class Setting(NamedTuple):
    """What is measured: the words of `seed-learner`'s command line, and what a GPU does of it."""

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
    setting: Setting, options: argparse.Namespace, processes: Processes
) -> list[Repetition]:
    """Returns all repetitions; bare work has the batch of the run before, or `--batch`."""
    cores = len(usable_cores())
    repetitions = []
    with Workers(cores, setting.words) as workers:
        for _ in range(options.repetitions):
            real = run_really(setting, options.seconds, processes)
            batch = options.batch or max(1, round(real.window.means["inference_batch_mean"]))
            costs: dict[Kind, Cost] = {}
            for kind in LETTERS:
                task = Task(kind, _BARE_SHARE * options.seconds, batch)
                costs[kind] = workers.measure(task, 1 if kind in setting.on_gpu else cores)
            repetitions.append(Repetition(real, costs, setting.on_gpu))
    return repetitions


def run_really(setting: Setting, seconds: float, processes: Processes) -> Real:
    """Returns what the real command does once it learns, after some time to settle."""
    interval_s = min(_LONGEST_LOG_INTERVAL_S, _LOG_INTERVAL_SHARE * seconds)
    config, *overrides = setting.words
    learner = processes.start_learner(
        Path(config), [*overrides, "--log-interval-s", str(interval_s)]
    )
    wait_until_learning(learner, processes.check)
    wait_watching(_WARM_UP_SHARE * seconds, processes.check)
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


def to_figures(setting: Setting, repetitions: Sequence[Repetition]) -> dict[str, Any]:
    """Returns all figures of a configuration, as JSON takes them."""
    frames = setting.config.environment.frames_per_env_step
    return {
        "command": setting.words,
        "on_gpu": sorted(setting.on_gpu),
        "summary": summarize(repetitions, len(usable_cores()), frames),
        "core_us_per_step": core_times_us(repetitions),
        "phase_shares": phase_shares(repetitions),
        "repetitions": [
            {
                "window": each.real.window._asdict(),
                "cores": each.real.cores,
                "costs": {kind: cost._asdict() for kind, cost in each.costs.items()},
            }
            for each in repetitions
        ],
    }


def measure_all(options: argparse.Namespace) -> report.Results:
    """All configurations, one after another."""
    settings = [read_setting([path, *options.override]) for path in options.configs]
    rows, runs, notes = [], [], []
    with Processes() as processes:
        for setting in settings:
            repetitions = measure_setting(setting, options, processes)
            figures = to_figures(setting, repetitions)
            rows += [[" ".join(setting.words), "", "", ""], *make_rows(figures, setting.on_gpu)]
            notes += describe_disturbance(repetitions)
            runs.append(figures)
    return report.Results(HEADER, rows, {"runs": runs}, notes)


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = report.start_parser("roofline", __doc__)
    parser.add_argument(
        "configs", metavar="CONFIG", nargs="*", default=["configs/pong_vtrace.toml"],
        help="files of runs with local environment servers",
    )  # fmt: skip
    report.add_times(parser, seconds=20.0)
    parser.add_argument(
        "--batch", type=report.positive, help="rows of bare acting, instead of the real run's mean"
    )
    report.add_override(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return report.run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
