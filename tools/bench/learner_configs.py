"""Configurations of learners that fake environment servers load, and options for their sizes."""

from __future__ import annotations

import argparse
from typing import Any, Literal, NamedTuple

from tools.report import positive

FRAMES_PER_STEP = 4
# All environments count as evaluation environments, from which nothing is learned; 1 itself is
# refused, as a training without data has no end.
_ALL = 1 - 1e-14

Tables = dict[str, Any]


class Load(NamedTuple):
    """What a learner has to serve, images of `side` by `side` pixels, and with what."""

    max_envs: int
    max_batch: int
    side: int = 84
    torso: Literal["impala_shallow", "impala_deep", "nature"] = "impala_shallow"
    device: str = "cpu"


def add_load_options(parser: argparse.ArgumentParser, *, groups: int, rows: int) -> None:
    """Adds the options that `read_load` reads, with these defaults for groups and their rows."""
    add = parser.add_argument
    add("--servers", type=positive, default=2, help="processes with environments")
    add("--groups", type=positive, default=groups, help="groups of each process")
    add("--rows-per-message", type=positive, default=rows, help="environments of each group")
    add("--max-batch", type=positive, default=256, help="rows of the largest forward pass")
    add("--device", default="cpu", help="cpu or cuda, of all the learner's work")
    add("--torso", choices=["impala_shallow", "impala_deep", "nature"], default="impala_shallow",
        help="the network's first layers")  # fmt: skip


def read_load(arguments: argparse.Namespace) -> Load:
    """What these options ask of a learner; a message is never larger than its largest batch."""
    return Load(
        max_envs=arguments.servers * arguments.groups * arguments.rows_per_message,
        max_batch=max(arguments.max_batch, arguments.rows_per_message),
        torso=arguments.torso,
        device=arguments.device,
    )


def environment_table(side: int) -> Tables:
    """The table [environment]: free environments with images of `side` by `side` pixels."""
    return {
        "kind": "function",
        "id": "tools.bench.free_environments:make",
        "frames_per_step": FRAMES_PER_STEP,
        "kwargs": {"side": side},
    }


def _tables(load: Load, frame_stack: int, **inference: Any) -> Tables:
    return {
        "checkpoint_interval_s": 1e9,
        "local_envservers": 0,
        "environment": environment_table(load.side),
        "network": {"torso": load.torso, "frame_stack": frame_stack},
        "inference": {
            "device": load.device, "max_envs": load.max_envs, "max_batch": load.max_batch,
            **inference,
        },
        "learner": {"device": load.device},
    }  # fmt: skip


def null_tables(load: Load) -> Tables:
    """A server that neither learns nor has a network."""
    tables = _tables(load, frame_stack=1, evaluation_share=_ALL)
    return tables | {"algorithm": {"name": "tools.bench.null_algorithm"}}


def inference_tables(load: Load) -> Tables:
    """V-trace's acting with a stack of 4, without learning."""
    return _tables(load, frame_stack=4, evaluation_share=_ALL)


def vtrace_tables(load: Load, unroll_length: int, batch_size: int) -> Tables:
    """V-trace with a stack of 4; the queue holds an unroll of every environment."""
    tables = _tables(load, frame_stack=4)
    tables["learner"] |= {
        "unroll_length": unroll_length, "batch_size": batch_size,
        "queue_batches": max(1.0, load.max_envs / batch_size),
    }  # fmt: skip
    return tables | {"algorithm": {"name": "vtrace", "reduction": "mean"}}


def r2d2_tables(load: Load, unroll_length: int, batch_size: int, lstm_size: int) -> Tables:
    """R2D2 with a stack of 4 and an LSTM; each row is learned from 0.75 times.

    Burn-in is half an unroll, as published: 40 rows for 80.
    """
    tables = _tables(load, frame_stack=4)
    tables["network"]["lstm_size"] = lstm_size
    tables["learner"] |= {
        "unroll_length": unroll_length, "batch_size": batch_size, "queue_batches": 2.0,
        "burn_in": unroll_length // 2,
    }  # fmt: skip
    batch_rows, fleet_rows = batch_size * unroll_length, load.max_envs * unroll_length
    tables["replay"] = {
        "capacity_rows": max(16 * batch_rows, 4 * fleet_rows), "min_rows": 2 * batch_rows,
        "ratio": 0.75,
    }  # fmt: skip
    return tables | {"algorithm": {"name": "r2d2"}}
