"""What do replay's memory, a batch out of it, and drawing by priority cost?

    python -m tools.bench.replay

Builds store and replay of a configuration for fewer rows, and for fewer environments by the same
factor. Fills all of it, with rows as inference writes them and inserts as the learner makes them;
then samples and gathers batches. Memory is in MB (10^6 bytes) and as a ratio to the bare rows:
"as configured" is for all rows, without taking their memory; what the process took is in RAM.
Times are milliseconds; "x copy" is beside a bare copy of the bytes that a gather returns. Drawing
is also timed for trees of other sizes: a round is what replay does for a batch (items evicted and
inserted, then sampled and updated). Linux only; torch has one thread.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envservers.environments.factory import describe
from seed.config.checks import check_source
from seed.config.loading import parse_command_line
from seed.config.schema import Config, ConfigError
from seed.contract.loading import load_algorithm, load_algorithm_config
from seed.device.names import resolve_device
from seed.device.transfer import tensors_of
from seed.learner.replay import Replay, count_unrolls
from seed.learner.sum_tree import Priorities
from seed.process.tuning import keep_freed_memory
from seed.run.build import make_store
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store
from seed.store.layout import Column, StoreLayout
from seed.store.pages import Links, PageLinks
from seed.store.row_index import row_index_size, split_row_index
from seed.store.rows import Arrivals, Unroll
from seed.store.unrolls import UnrollStore
from tools import report
from tools.watching import memory_bytes

_CPU = torch.device("cpu")
_COPY, _GATHER = "a bare copy", "a gather"
# Of a round: items that are replaced for each one that is drawn, and their priorities' power.
_REPLACED_PER_DRAWN, _EXPONENT = 85 / 64, 0.9
_ROUNDS = 100


def whole_layout(config: Config, spaces: Spaces) -> StoreLayout:
    """Returns the form of the configuration's own store and replay, without taking their memory."""
    algorithm = load_algorithm(config.algorithm_name)
    agent = make_agent(algorithm, config, spaces, _CPU)
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
    replay = dataclasses.replace(config.replay, capacity_rows=rows, capacity_gib=0.0, min_rows=rows)
    return dataclasses.replace(config, replay=replay)


def build_store(config: Config, spaces: Spaces, device: torch.device) -> UnrollStore:
    """Returns a store as `seed-learner` makes it."""
    algorithm = load_algorithm(config.algorithm_name)
    agent = make_agent(algorithm, config, spaces, device)
    layout = plan_store(algorithm, config, spaces, agent, device, replay=True)
    return make_store(layout, device, device)


def fill(store: UnrollStore, replay: Replay) -> list[PageLinks]:
    """Writes rows and inserts unrolls until replay is full and has evicted its oldest.

    Returns:
        The unrolls that replay holds.
    """
    layout, device, count = store.layout, store.device, store.layout.max_envs
    env_ids, run_ids = np.arange(count), np.ones(count, np.uint64)
    first = np.zeros(count, np.bool_)

    def zeros(form: Column) -> Tensor:
        """A row of this form for each environment. `[max_envs, *shape]`"""
        return torch.zeros(count, *form.shape, dtype=form.dtype, device=device)

    flags = zeros(Column((), torch.bool))
    observations = {part: zeros(form) for part, form in layout.observations.items()}
    for values in observations.values():
        values.random_(0, 256 if values.dtype == torch.uint8 else 2)
    arrived = Arrivals(observations, flags.float(), flags, flags)
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


def count_bytes(store: UnrollStore) -> dict[str, float]:
    """Returns where the store's bytes go, by name, and `ratio`: all over replay's rows."""
    layout = store.layout
    rows = layout.replay_unrolls * layout.unroll_length
    others = layout.num_pages - layout.replay_unrolls
    return {
        "rows": rows,
        "row_nbytes": layout.row_nbytes,
        "rows_nbytes": rows * layout.row_nbytes,
        "states_nbytes": layout.replay_unrolls * 4 * layout.state_size,
        "other_pages_nbytes": others * layout.page_nbytes,
        "store_nbytes": store.nbytes,
        "ratio": store.nbytes / (rows * layout.row_nbytes),
    }


def unroll_nbytes(unroll: Unroll) -> int:
    """Returns the bytes of all its tensors."""
    return sum(tensor.nbytes for tensor in tensors_of(unroll))


def time_batches(
    store: UnrollStore, replay: Replay, held: Sequence[PageLinks], batch: int, repetitions: int
) -> dict[str, dict[str, Any]]:
    """Returns the milliseconds of a batch and of its gather beside a copy, also without a stack."""
    drawn = np.random.default_rng(0).integers(len(held), size=batch)
    links = np.array(held)[drawn]  # [B, 3] int64
    # The same rows, of which the network sees only the newest frame.
    single = copy.copy(store)
    single.layout = dataclasses.replace(store.layout, frame_stack=1)
    batches: dict[str, Any] = time_ms({"a batch": replay.next_batch}, store.device, repetitions)
    gathers = {
        f"stack of {each.layout.frame_stack}": _time_gather(each, links, repetitions)
        for each in (single, store)
    }
    return {"replay": batches, **gathers}


def _time_gather(store: UnrollStore, links: Links, repetitions: int) -> dict[str, Any]:
    nbytes = unroll_nbytes(store.gather(links))
    block = torch.ones(nbytes, dtype=torch.uint8, device=store.device)
    target = torch.zeros_like(block)
    calls: dict[str, Callable[[], object]] = {
        _COPY: lambda: target.copy_(block), _GATHER: lambda: store.gather(links)
    }  # fmt: skip
    return {"nbytes": nbytes, **time_ms(calls, store.device, repetitions)}


def time_rounds(items: int, batch: int, repetitions: int) -> dict[str, report.Spread]:
    """Returns the milliseconds of a round of drawing: the mean of many."""
    rng = np.random.default_rng(0)
    tree = Priorities(items, _EXPONENT, rng)
    tree.insert(rng.random(items, np.float32))
    new = rng.random(min(items, round(_REPLACED_PER_DRAWN * batch)), np.float32)
    changed = rng.random(batch, np.float32)

    def play() -> None:
        """Plays the rounds."""
        for _ in range(_ROUNDS):
            tree.evict(len(new))
            tree.insert(new)
            tree.update_priorities(tree.sample(batch).numbers, changed)

    [each] = time_ms({"round": play}, _CPU, repetitions).values()
    return {"round": report.Spread(*(value / _ROUNDS for value in dataclasses.astuple(each)))}


def time_ms(
    calls: dict[str, Callable[[], object]], device: torch.device, repetitions: int
) -> dict[str, report.Spread]:
    """Returns each call's milliseconds. They take turns; the first turn is not counted."""
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            started_s = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition > 0:
                times_ms[name].append((time.perf_counter() - started_s) * 1e3)
    return {name: report.spread(times) for name, times in times_ms.items()}


def measure(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Returns all figures, as `--json` writes them.

    Raises:
        ConfigError: where the store cannot be built or does not fit.
    """
    device, repetitions = resolve_device(options.device, "--device"), options.repetitions
    spaces = Spaces(*describe(dataclasses.asdict(config.environment)))
    whole = whole_layout(config, spaces)
    smaller = scaled_config(config, options.rows, whole)
    before = memory_bytes(os.getpid())
    store = build_store(smaller, spaces, device)
    batch = smaller.learner.batch_size
    replay = Replay(store, batch, smaller.replay, np.random.default_rng(0))
    held = fill(store, replay)
    taken = memory_bytes(os.getpid()) - before
    measured = count_bytes(store)
    taken_figures = {"taken_nbytes": taken, "taken_ratio": taken / measured["rows_nbytes"]}
    return {
        "measured": {**measured, **taken_figures},
        # Tensors without memory.
        "whole": count_bytes(UnrollStore(whole, torch.device("meta"))),
        "times": time_batches(store, replay, held, batch, repetitions),
        "rounds": {items: time_rounds(items, batch, repetitions) for items in options.items},
    }


_MEMORY = {
    "rows": ("rows", "{:,.0f}", 1),
    "row_nbytes": ("bytes per row", "{:,.0f}", 1),
    "rows_nbytes": ("rows x bytes per row, MB", "{:,.1f}", 1e6),
    "states_nbytes": ("their recurrent states, MB", "{:,.1f}", 1e6),
    "other_pages_nbytes": ("pages besides replay's own, MB", "{:,.1f}", 1e6),
    "store_nbytes": ("store in all, MB", "{:,.1f}", 1e6),
    "ratio": ("store / rows", "{:.3f}", 1),
    "taken_nbytes": ("taken by the process, MB", "{:,.1f}", 1e6),
    "taken_ratio": ("taken / rows", "{:.3f}", 1),
}


def make_rows(figures: dict[str, Any]) -> list[list[str]]:
    """The cells: memory, then times."""
    columns = figures["measured"], figures["whole"]
    rows = []
    for name, (label, form, unit) in _MEMORY.items():
        cells = [form.format(column[name] / unit) if name in column else "" for column in columns]
        rows.append([label, *cells, ""])
    for name, times in figures["times"].items():
        size = f", {times['nbytes'] / 1e6:,.1f} MB" if "nbytes" in times else ""
        for call, time_ in times.items():
            if call != "nbytes":
                ratio = f"{time_.median / times[_COPY].median:.2f}" if call == _GATHER else ""
                rows.append([f"{name}{size}: {call}, ms", time_.text("{:,.2f}"), "", ratio])
    for items, times in figures["rounds"].items():
        rows.append([f"drawing from {items:,}: a round, ms", times["round"].text("{:.3f}"), "", ""])
    return rows


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = report.start_parser("replay", __doc__)
    add = parser.add_argument
    add("--config", default="configs/atari57_r2d2.toml", help="file of a run with a replay")
    add("--rows", type=report.positive, default=200_000, help="rows of the replay measured")
    add("--items", type=report.positive, nargs="+", default=[1_000, 100_000, 1_000_000],
        help="unrolls to draw from")  # fmt: skip
    add("--device", default="cpu", help="cpu or cuda")
    add("--repetitions", type=report.positive, default=15, help="timings per median")
    report.add_override(parser)
    return parser


def measure_all(options: argparse.Namespace) -> report.Results:
    """All figures of one configuration."""
    torch.set_num_threads(1)
    keep_freed_memory()
    words = [options.config, *options.override]
    config = parse_command_line(words, load_algorithm_config).config
    check_source(config, "replay")
    figures = measure(config, options)
    header = (" ".join(words), "measured", "as configured", "x copy")
    return report.Results(header, make_rows(figures), figures)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return report.run_command(make_parser(), measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
