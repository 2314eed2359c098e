"""Which way of stepping Atari games costs least, and whether an environment server ever waits.

    python -m tools.bench.stepping

The first table compares bare ways to step on all cores: a process per core, also with what
`AtariGroup` adds; one process with an emulator thread per core; one with a group per core, all of
them stepped at once. The second has a real environment server and a learner that answers every
STEP with random actions after a given time, as a share of what the server's other groups take for
a step. Up to 1 the server should step as fast as the same groups in turns without a learner
("bare"; "of bare" is the median of the repetitions' shares), and keep its core busy ("cores": CPU
seconds in a second). A server whose environments are all in one group, which has nothing to do
while it waits for the same answers, is the control.

What is compared is measured in turns; figures are medians. CPU time counts all threads of a
process; what else the machine does disturbs it less than steps per second. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from envservers.environments.atari import AtariGroup, AtariOptions
from tools.bench.answering_learner import GAME, NUM_ACTIONS, AnsweringLearner
from tools.bench.piped_processes import PipedProcesses
from tools.bench.processes import Processes, envserver_command, usable_cores
from tools.bench.report import (
    at_least_zero,
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
from tools.bench.thread_times import read_threads

Way = Literal["emulator", "group", "threads", "at once"]

# Groups of actions drawn beforehand: drawing is not measured.
_PREPARED = 1000
# Of a table, by the figure's name: title and form.
_COLUMNS = {
    "steps_per_s": ("steps/s", "{:,.0f}"),
    "cpu_us": ("CPU us/step", "{:.1f}"),
    "cores": ("cores", "{:.2f}"),
    "share": ("of bare", "{:.3f}"),
}


class Task(NamedTuple):
    """What a process is asked to step.

    Attributes:
        way: "emulator": ale-py's own step, a group after the other. "group": `AtariGroup`'s.
            "threads": ale-py's own with `threads` emulator threads. "at once": all groups' actions
            are sent before the first observations are taken.
        groups: Groups of the process.
        group_size: Environments of each.
        threads: Emulator threads of each.
    """

    way: Way
    groups: int
    group_size: int
    threads: int = 1


class Pace(NamedTuple):
    """What was measured.

    Attributes:
        steps_per_s: Steps of all environments per second.
        cpu_us: CPU microseconds per step.
    """

    steps_per_s: float
    cpu_us: float


class _Server(NamedTuple):
    """A real environment server with a learner of its own.

    Attributes:
        name: In the table.
        learner: Which it is connected to.
        pid: Of its supervisor.
    """

    name: str
    learner: AnsweringLearner
    pid: int


def make_stepping(task: Task) -> Callable[[], object]:
    """Returns a function that steps all groups of the task once, with random actions."""
    size = task.group_size
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=(_PREPARED, size))
    if task.way == "group":
        groups = [AtariGroup(GAME, size, AtariOptions()) for _ in range(task.groups)]
        for group in groups:
            group.reset(np.arange(size))
        return _in_turns([group.step for group in groups], actions)
    emulators = [
        AtariVectorEnv(
            GAME, size, stack_num=1, num_threads=task.threads, reward_clipping=False,
            use_fire_reset=False,
        )
        for _ in range(task.groups)
    ]  # fmt: skip
    for emulator in emulators:
        emulator.reset(seed=np.arange(size))
    if task.way != "at once":
        return _in_turns([emulator.step for emulator in emulators], actions)
    send_all = _in_turns([emulator.send for emulator in emulators], actions)
    return lambda: (send_all(), [emulator.recv() for emulator in emulators])


def _in_turns(
    steps: Sequence[Callable[[Any], object]], actions: np.ndarray[Any, Any]
) -> Callable[[], None]:
    calls = 0

    def run() -> None:
        nonlocal calls
        for step in steps:
            step(actions[calls % _PREPARED])
        calls += 1

    return run


def step_when_asked(pipe: Connection) -> None:
    """Steps in a process of its own.

    For each `Task` and number of seconds: says None once it is prepared; upon the next message says
    the steps made, the seconds taken, and the CPU seconds of all threads.

    Args:
        pipe: To the process that asks, which closes it or ends this one.
    """
    # Ctrl-C is the asking process's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: dict[Task, Callable[[], object]] = {}
    while True:
        task, seconds = pipe.recv()
        if task not in tasks:
            tasks[task] = make_stepping(task)
        run = tasks[task]
        run()
        pipe.send(None)
        pipe.recv()
        calls, cpu_s, started_s = 0, time.process_time(), time.perf_counter()
        while (elapsed_s := time.perf_counter() - started_s) < seconds:
            run()
            calls += 1
        pipe.send((calls * task.groups * task.group_size, elapsed_s, time.process_time() - cpu_s))


def start_steppers(count: int) -> PipedProcesses:
    """Starts processes that step when asked, and sleep meanwhile."""
    return PipedProcesses(count, step_when_asked)


def measure_pace(steppers: PipedProcesses, task: Task, seconds: float, count: int = 1) -> Pace:
    """Returns the pace of so many processes that do this at the same time.

    Raises:
        ProcessFailed: where one of them fails.
    """
    answers = steppers.ask(f"bare stepping ({task.way})", [(task, seconds), "measure"], count)
    return Pace(
        sum(steps / elapsed_s for steps, elapsed_s, _ in answers),
        1e6 * sum(cpu_s for *_, cpu_s in answers) / sum(steps for steps, *_ in answers),
    )


def compare_ways(
    steppers: PipedProcesses, sizes: Sequence[int], cores: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Paces of all ways to step on all cores, with groups of these sizes."""
    ways: list[tuple[str, Way, int, int, int]] = [
        ("process per core", "emulator", cores, 1, 1),
        ("process per core, AtariGroup", "group", cores, 1, 1),
        ("one process, thread per core", "threads", 1, 1, cores),
        ("one process, group per core at once", "at once", 1, cores, 1),
    ]
    rows: list[dict[str, Any]] = []
    for size in sizes:
        paces: dict[str, list[Pace]] = {name: [] for name, *_ in ways}
        for _ in range(arguments.repetitions):
            for name, way, processes, groups, threads in ways:
                task = Task(way, groups, size, threads)
                paces[name].append(measure_pace(steppers, task, arguments.seconds, processes))
        rows += [{"way": name, "group_size": size, **_medians(paces[name])} for name in paces]
    return rows


def _medians(paces: Sequence[Pace]) -> dict[str, Any]:
    return {
        "steps_per_s": spread([pace.steps_per_s for pace in paces]),
        "cpu_us": spread([pace.cpu_us for pace in paces]),
    }


def measure_overlap(
    steppers: PipedProcesses, processes: Processes, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Paces of environment servers at every delay, and of as many groups without a learner.

    Of one with several groups, and of one whose environments are all in one group, so that nothing
    can be stepped while it waits.
    """
    size, groups = arguments.envs // arguments.groups, arguments.groups
    bare = Task("emulator", groups, size)
    with contextlib.ExitStack() as stack:
        servers = [
            _start_server(stack, processes, arguments.envs, count)
            for count in dict.fromkeys((groups, 1))
        ]
        paces: dict[str, list[Pace]] = {"bare": []}
        for _ in range(arguments.repetitions):
            measured = measure_pace(steppers, bare, arguments.seconds)
            paces["bare"].append(measured)
            others_s = (groups - 1) * size / measured.steps_per_s
            for server in servers:
                for delay in arguments.delays:
                    pace = _measure_server(server, delay * others_s, arguments.seconds)
                    paces.setdefault(f"{server.name}, delay {delay:g}", []).append(pace)
                # The last answers' steps end before others are measured.
                time.sleep(2 * arguments.envs / measured.steps_per_s)
    bare_rates = [pace.steps_per_s for pace in paces["bare"]]
    return [
        {
            "server": name, **_medians(of_server),
            "cores": spread([1e-6 * pace.cpu_us * pace.steps_per_s for pace in of_server]),
            "share": spread(
                [pace.steps_per_s / rate for pace, rate in zip(of_server, bare_rates, strict=True)]
            ),
        }
        for name, of_server in paces.items()
    ]  # fmt: skip


def _start_server(
    stack: contextlib.ExitStack, processes: Processes, num_envs: int, groups: int
) -> _Server:
    learner = AnsweringLearner()
    stack.callback(learner.close)
    command = envserver_command(learner.address, num_envs, groups)
    server = processes.start("seed-envserver", command)
    learner.welcome(processes.check)
    name = "1 group" if groups == 1 else f"{groups} groups"
    return _Server(name, learner, server.pid)


def _measure_server(server: _Server, delay_s: float, seconds: float) -> Pace:
    """The pace at which it answers a learner that takes so long for its actions."""
    server.learner.play(0.1, delay_s)
    cpu_s, started_s = _cpu_seconds(server.pid), time.perf_counter()
    steps = server.learner.play(seconds, delay_s)
    elapsed_s = time.perf_counter() - started_s
    return Pace(steps / elapsed_s, 1e6 * (_cpu_seconds(server.pid) - cpu_s) / max(1, steps))


def _cpu_seconds(pid: int) -> float:
    """CPU time so far of a supervisor and of the process that it has started."""
    return sum(read_threads(pid).values())


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("stepping", __doc__)
    parser.add_argument(
        "--sizes", type=positive, nargs="*", default=[8, 16, 32],
        help="environments per group in the first table; many take long to make",
    )  # fmt: skip
    parser.add_argument(
        "--delays", type=at_least_zero, nargs="*", default=[0.0, 0.5, 0.8, 1.5],
        help="of the second table: times for an answer, 1 is a step of all other groups",
    )  # fmt: skip
    parser.add_argument("--envs", type=positive, default=32, help="environments of the server")
    parser.add_argument("--groups", type=positive, default=2, help="groups of the server")
    parser.add_argument("--seconds", type=positive_seconds, default=1.0, help="per measurement")
    parser.add_argument("--repetitions", type=positive, default=5, help="per median")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both tables; returns the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.envs % arguments.groups:
        parser.error(f"--envs {arguments.envs}: expected a multiple of --groups {arguments.groups}")
    return run_plainly("stepping", lambda: _measure(arguments))


def _measure(arguments: argparse.Namespace) -> None:
    origin, cores = describe_origin(), len(usable_cores())
    print(origin_line(origin))
    with Processes() as processes, start_steppers(cores) as steppers:
        ways = compare_ways(steppers, arguments.sizes, cores, arguments)
        names = [f"{row['way']}, {row['group_size']}" for row in ways]
        _print_table(names, ways, "way, group size")
        overlap = measure_overlap(steppers, processes, arguments) if arguments.delays else []
        _print_table([row["server"] for row in overlap], overlap, "environment server")
    if arguments.json is not None:
        figures = {"settings": settings_of(arguments), "ways": ways, "overlap": overlap}
        write_json(arguments.json, origin, figures)


def _print_table(names: Sequence[str], rows: Sequence[dict[str, Any]], first: str) -> None:
    if not rows:
        return
    columns = [column for column in _COLUMNS if column in rows[0]]
    lines = [
        [name, *(row[column].text(_COLUMNS[column][1]) for column in columns)]
        for name, row in zip(names, rows, strict=True)
    ]
    header = [first, *(_COLUMNS[column][0] for column in columns)]
    print(f"\n{format_table(header, lines)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
