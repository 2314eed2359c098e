"""Measures replay's memory, and a batch's way out of it beside a bare copy of the same bytes.

    python -m tools.bench.replay_memory

Builds store and replay of a configuration for fewer rows, and for fewer environments by the same
factor. Fills all of it, with rows as inference writes them and inserts as the learner makes them.
Then samples and gathers batches. Linux only; torch has one thread.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from envservers.environments.factory import InvalidEnvironment, describe
from seed.config.checks import check, check_source
from seed.config.loading import from_tables, read_toml
from seed.config.schema import Config, ConfigError
from seed.contract import Algorithm, load_algorithm, load_algorithm_config
from seed.device.names import resolve_device
from seed.learner.replay import Replay, count_unrolls
from seed.learner.sum_tree import Priorities
from seed.ops.importance import importance_weights
from seed.process.tuning import keep_freed_memory
from seed.run.serving import make_agent, make_store, plan_store
from seed.run.spaces import Spaces
from seed.store.layout import Column, StoreLayout
from seed.store.pages import Links, PageLinks
from seed.store.row_index import row_index_size, split_row_index
from seed.store.rows import Arrivals, Unroll
from seed.store.unrolls import UnrollStore
from tools.bench.report import (
    describe_origin,
    origin_line,
    positive,
    settings_of,
    start_parser,
    write_json,
)

_CPU = torch.device("cpu")
_STATUS = Path("/proc/self/status")
_COPY, _COPY_TO_NEW = "copy", "copy to new memory"


def make_config(arguments: argparse.Namespace) -> Config:
    """Returns the configuration of the file, with what the command line says instead of it.

    Raises:
        ConfigError: where no replay can be built from it.
    """
    config = from_tables(read_toml(arguments.config), load_algorithm_config)
    learner, replay = config.learner, config.replay
    config = dataclasses.replace(
        config,
        learner=dataclasses.replace(
            learner,
            batch_size=_either(arguments.batch, learner.batch_size),
            unroll_length=_either(arguments.unroll, learner.unroll_length),
        ),
        replay=dataclasses.replace(replay, burn_in=_either(arguments.burn_in, replay.burn_in)),
    )
    check(config)
    check_source(config, "replay")
    return config


def _either(given: int | None, configured: int) -> int:
    return configured if given is None else given


def whole_layout(config: Config, spaces: Spaces) -> StoreLayout:
    """Returns the form of the configuration's own store and replay, without taking their memory."""
    algorithm, agent = _make_algorithm(config, spaces, _CPU)
    # Planned for one unroll first: a plan for all of them is refused where they do not fit.
    layout = plan_store(algorithm, _with_unrolls(config, 1), spaces, agent, _CPU, replay=True)
    others = layout.num_pages - 1
    unrolls = count_unrolls(dataclasses.replace(layout, num_pages=others), config.replay)
    return dataclasses.replace(layout, num_pages=others + unrolls, replay_unrolls=unrolls)


def scaled_config(config: Config, rows: int, whole: StoreLayout) -> Config:
    """Returns the configuration for `rows` rows, and for fewer environments by the same factor.

    Learning starts once replay is full.

    Raises:
        ConfigError: where they are fewer than one unroll has.
    """
    unrolls = rows // config.learner.unroll_length
    if unrolls < 1:
        raise ConfigError(
            f"--rows = {rows}: expected at least the {config.learner.unroll_length} of one unroll"
        )
    envs = max(1, round(whole.max_envs * unrolls / whole.replay_unrolls))
    inference = dataclasses.replace(config.inference, max_envs=envs)
    return _with_unrolls(dataclasses.replace(config, inference=inference), unrolls)


def _with_unrolls(config: Config, unrolls: int) -> Config:
    rows = unrolls * config.learner.unroll_length
    replay = dataclasses.replace(
        config.replay, capacity_rows=rows, capacity_gib=0.0, min_rows=rows
    )
    return dataclasses.replace(config, replay=replay)


def _make_algorithm(
    config: Config, spaces: Spaces, device: torch.device
) -> tuple[Algorithm, nn.Module]:
    algorithm = load_algorithm(config.algorithm_name)
    return algorithm, make_agent(algorithm, config, spaces, device)


def build_store(config: Config, spaces: Spaces, device: torch.device) -> UnrollStore:
    """Returns a store as `seed-learner` makes it."""
    algorithm, agent = _make_algorithm(config, spaces, device)
    return make_store(algorithm, config, spaces, agent, device, replay=True)


def fill(store: UnrollStore, replay: Replay) -> list[PageLinks]:
    """Writes rows and inserts unrolls until replay is full and has evicted its oldest.

    Returns:
        The unrolls that replay holds.
    """
    layout, device = store.layout, store.device
    count = layout.max_envs
    env_ids, run_ids = np.arange(count), np.ones(count, np.uint64)
    first = np.zeros(count, np.bool_)

    def zeros(form: Column) -> Tensor:
        """A row of this form for each environment. `[max_envs, *shape]`"""
        return torch.zeros(count, *form.shape, dtype=form.dtype, device=device)

    flags = zeros(Column((), torch.bool))
    arrived = Arrivals(_noise(zeros(layout.observation)), flags.float(), flags, flags)
    actions = zeros(layout.action)
    behaviour = {name: zeros(form) for name, form in layout.behaviour.items()}
    states = torch.ones(count, layout.state_size, device=device)
    version = torch.zeros((), dtype=torch.int32, device=device)
    block = np.empty(row_index_size(layout) * count, np.int64)
    published: list[PageLinks] = []
    while not replay.wait(0.0):
        if store.has_room(env_ids, run_ids):
            complete = store.allocate_rows(env_ids, run_ids, first, split_row_index(block, layout))
            row_index = split_row_index(torch.from_numpy(block).to(device), layout)
            store.write_arrivals(row_index, arrived)
            store.write_actions(row_index, actions, behaviour, states, version)
            store.publish(complete)
            published += complete
    inserted = len(published) - store.num_ready
    return published[inserted - len(replay) : inserted]


def _noise(values: Tensor) -> Tensor:
    return values.random_(0, 256) if values.dtype == torch.uint8 else values.random_(0, 2)


def taken_bytes(device: torch.device) -> int:
    """Returns the memory that this process has now: of the GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    lines = [line.split() for line in _STATUS.read_text().splitlines()]
    return next(1024 * int(line[1]) for line in lines if line[0] == "VmRSS:")


def count_bytes(store: UnrollStore) -> dict[str, float]:
    """Returns where the store's bytes go, by name, and `ratio`: all over replay's rows."""
    layout = store.layout
    rows = layout.replay_unrolls * layout.unroll_length
    others = layout.num_pages - layout.replay_unrolls
    return {
        "environments": layout.max_envs,
        "unrolls": layout.replay_unrolls,
        "rows": rows,
        "row_nbytes": layout.row_nbytes,
        "rows_nbytes": rows * layout.row_nbytes,
        "states_nbytes": layout.replay_unrolls * 4 * layout.state_size,
        "other_pages": others,
        "other_pages_nbytes": others * layout.page_nbytes,
        "zero_rows_nbytes": store.nbytes - layout.num_pages * layout.page_nbytes,
        "store_nbytes": store.nbytes,
        "ratio": store.nbytes / (rows * layout.row_nbytes),
    }


def unroll_nbytes(unroll: Unroll) -> int:
    """Returns the bytes of all its tensors."""
    rows = [getattr(unroll.rows, field.name) for field in dataclasses.fields(unroll.rows)]
    rest = [unroll.actions, unroll.policy_versions, unroll.agent_state, unroll.importance]
    return sum(tensor.nbytes for tensor in [*rows, *rest, *unroll.behaviour.values()])


def measure_times(
    store: UnrollStore, replay: Replay, held: Sequence[PageLinks], config: Config, repetitions: int
) -> dict[str, Any]:
    """Returns median milliseconds of a batch's parts, and of gathers beside bare copies.

    Args:
        store: Full.
        replay: Over it, full.
        held: The unrolls that it holds.
        config: Of both.
        repetitions: Timings per median.
    """
    device, count = store.device, config.learner.batch_size
    rng = np.random.default_rng(0)
    priorities = Priorities(len(held), config.replay.priority_exponent, rng)
    priorities.insert(rng.random(len(held), np.float32))
    drawn = priorities.sample(count)
    exponent = config.replay.importance_exponent

    def weigh() -> Tensor:
        """The importance weights of what was drawn, on the store's device. `[B]`"""
        probabilities = torch.from_numpy(drawn.probabilities)
        return importance_weights(probabilities, len(held), exponent).to(device)

    parts = {
        "sampling": lambda: priorities.sample(count),
        "importance weights": weigh,
        "whole batch": replay.next_batch,
    }
    # The same rows, of which the network sees only the newest frame.
    single = copy.copy(store)
    single.layout = dataclasses.replace(store.layout, frame_stack=1)
    stores = {each.layout.frame_stack: each for each in (store, single)}
    links = np.array(held)[drawn.numbers]  # [B, 3] int64
    return {
        "parts": medians_ms(parts, device, repetitions),
        "gathers": [
            {"frame_stack": stack, **_beside_copies(each, links, repetitions)}
            for stack, each in stores.items()
        ],
    }


def _beside_copies(store: UnrollStore, links: Links, repetitions: int) -> dict[str, Any]:
    """Medians of gathering these unrolls, and of copying a block of as many bytes."""
    nbytes = unroll_nbytes(store.gather(links))
    block = torch.ones(nbytes, dtype=torch.uint8, device=store.device)
    target = torch.zeros_like(block)
    calls = {
        _COPY: lambda: target.copy_(block),
        _COPY_TO_NEW: block.clone,
        "gather": lambda: store.gather(links),
    }
    return {"nbytes": nbytes, "median_ms": medians_ms(calls, store.device, repetitions)}


def medians_ms(
    calls: dict[str, Callable[[], object]], device: torch.device, repetitions: int
) -> dict[str, float]:
    """Returns each call's median time in milliseconds, what it returns freed again.

    The calls take turns; the first turn is not counted.
    """
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            started_s = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition > 0:
                times_ms[name].append((time.perf_counter() - started_s) * 1e3)
    return {name: statistics.median(times) for name, times in times_ms.items()}


def measure(config: Config, rows: int, device: torch.device, repetitions: int) -> dict[str, Any]:
    """Returns all figures, as `--json` writes them.

    Raises:
        ConfigError: where the store cannot be built or does not fit.
    """
    spaces = Spaces(*describe(dataclasses.asdict(config.environment)))
    whole = whole_layout(config, spaces)
    smaller = scaled_config(config, rows, whole)
    before = taken_bytes(device)
    store = build_store(smaller, spaces, device)
    rng = np.random.default_rng(0)
    replay = Replay(store, smaller.learner.batch_size, smaller.replay, rng)
    started_s = time.perf_counter()
    held = fill(store, replay)
    fill_s = time.perf_counter() - started_s
    taken = taken_bytes(device) - before
    measured = count_bytes(store)
    return {
        "measured": {
            **measured, "taken_nbytes": taken, "taken_ratio": taken / measured["rows_nbytes"],
        },
        # Tensors without memory.
        "whole": count_bytes(UnrollStore(whole, torch.device("meta"))),
        "fill_s": fill_s,
        **measure_times(store, replay, held, smaller, repetitions),
    }  # fmt: skip


_TABLE = {
    "environments": ("environments", "{:,.0f}", 1),
    "unrolls": ("unrolls", "{:,.0f}", 1),
    "rows": ("rows", "{:,.0f}", 1),
    "row_nbytes": ("bytes per row", "{:,.0f}", 1),
    "rows_nbytes": ("rows x bytes per row, MB", "{:,.1f}", 1e6),
    "states_nbytes": ("their recurrent states, MB", "{:,.1f}", 1e6),
    "other_pages": ("pages besides replay's own", "{:,.0f}", 1),
    "other_pages_nbytes": ("pages besides replay's own, MB", "{:,.1f}", 1e6),
    "zero_rows_nbytes": ("rows of zeros, MB", "{:,.1f}", 1e6),
    "store_nbytes": ("store in all, MB", "{:,.1f}", 1e6),
    "ratio": ("store / rows", "{:.3f}", 1),
    "taken_nbytes": ("taken by the process, MB", "{:,.1f}", 1e6),
    "taken_ratio": ("taken / rows", "{:.3f}", 1),
}


def print_bytes(figures: dict[str, Any]) -> None:
    """Prints the table of bytes; a MB is 10^6 bytes."""
    columns = figures["measured"], figures["whole"]
    print(f"{'':<32}{'measured':>15}{'as configured':>15}")
    for name, (label, form, unit) in _TABLE.items():
        cells = [form.format(column[name] / unit) if name in column else "-" for column in columns]
        print(f"{label:<32}" + "".join(f"{cell:>15}" for cell in cells))


def print_times(figures: dict[str, Any]) -> None:
    """Prints the table of times; GB/s are of the bytes that a gather returns."""
    for name, time_ms in figures["parts"].items():
        print(f"{name:<32}{time_ms:>15.2f} ms")
    for gather in figures["gathers"]:
        print(f"frame stack {gather['frame_stack']}: {gather['nbytes'] / 1e6:.1f} MB")
        times_ms = gather["median_ms"]
        for name, time_ms in times_ms.items():
            print(
                f"  {name:<30}{time_ms:>15.2f} ms{gather['nbytes'] / time_ms / 1e6:>9.2f} GB/s"
                f"{time_ms / times_ms[_COPY]:>7.2f} x copy"
            )


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("replay_memory", __doc__)
    parser.add_argument(
        "--config", type=Path, default=Path("configs/atari57_r2d2.toml"), help="its replay"
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the replay measured")
    parser.add_argument("--batch", type=int, help="unrolls, instead of the configuration's")
    parser.add_argument("--unroll", type=int, help="rows, instead of the configuration's")
    parser.add_argument("--burn-in", type=int, help="rows, instead of the configuration's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repetitions", type=positive, default=15, help="timings per median")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        config = make_config(arguments)
        device = resolve_device(arguments.device, "--device")
        figures = measure(config, arguments.rows, device, arguments.repetitions)
    except (ConfigError, InvalidEnvironment) as error:
        parser.error(str(error))
    length, burn_in = config.learner.unroll_length, config.replay.burn_in
    origin = describe_origin(str(device))
    print(
        f"{origin_line(origin)}\n{arguments.config}, {device}; batches of "
        f"{config.learner.batch_size} unrolls of {burn_in} + {length} + 1 rows"
    )
    print_bytes(figures)
    print_times(figures)
    if arguments.json is not None:
        write_json(arguments.json, origin, {"settings": settings_of(arguments), **figures})


if __name__ == "__main__":
    main()
