"""Configurations of learners that serve free environments, as the tables of a TOML file.

And the options of the command line that say how large they are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Literal

from tools.bench.report import device_name, positive

FRAMES_PER_STEP = 4
_NEVER_S = 1e9
# Rows of burn-in for each step of an unroll, as published: 40 for 80.
_BURN_IN_SHARE = 0.5
# All environments count as evaluation environments, from which nothing is learned; 1 itself is
# refused, as a training without data has no end.
_ALL = 1 - 1e-14

Tables = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """What a learner has to serve, and with what.

    Attributes:
        max_envs: Environments that may connect.
        max_batch: Rows of the largest forward pass.
        side: Pixels of an image's edge.
        torso: The network's first layers, where there is one.
        device: "cpu" or "cuda".
    """

    max_envs: int
    max_batch: int
    side: int = 84
    torso: Literal["impala_shallow", "impala_deep", "nature"] = "impala_shallow"
    device: str = "cpu"


@dataclass(frozen=True)
class Training:
    """Sizes of an update.

    Attributes:
        unroll_length: Steps of an unroll.
        batch_size: Unrolls.
        lstm_size: Units, for R2D2.
    """

    unroll_length: int
    batch_size: int
    lstm_size: int = 0


def add_load_options(parser: argparse.ArgumentParser, *, groups: int, rows: int) -> None:
    """Adds the options that `read_load` reads, with these defaults for groups and their rows."""
    add = parser.add_argument
    add("--servers", type=positive, default=2, help="processes with environments")
    add("--groups", type=positive, default=groups, help="groups of each process")
    add("--rows-per-message", type=positive, default=rows, help="environments of each group")
    add("--max-batch", type=positive, default=256, help="rows of the largest forward pass")
    add("--device", type=device_name, default="cpu", help="cpu or cuda, of all the learner's work")
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


def null_tables(load: Load) -> Tables:
    """A server that neither learns nor has a network."""
    tables = _tables(load, frame_stack=1)
    tables["inference"]["evaluation_share"] = _ALL
    return tables | {"algorithm": {"name": "tools.bench.null_algorithm"}}


def inference_tables(load: Load) -> Tables:
    """V-trace's acting with a stack of 4, without learning."""
    tables = _tables(load, frame_stack=4)
    tables["inference"]["evaluation_share"] = _ALL
    return tables


def vtrace_tables(load: Load, training: Training) -> Tables:
    """V-trace with a stack of 4; the queue holds an unroll of every environment."""
    batches = max(1.0, load.max_envs / training.batch_size)
    return _tables(load, frame_stack=4) | {
        "learner": _learner(load, training) | {"queue_batches": batches},
        "algorithm": {"name": "vtrace", "reduction": "mean"},
    }


def r2d2_tables(load: Load, training: Training) -> Tables:
    """R2D2 with a stack of 4 and an LSTM; each row is learned from 0.75 times."""
    tables = _tables(load, frame_stack=4)
    tables["network"]["lstm_size"] = training.lstm_size
    batch_rows = training.batch_size * training.unroll_length
    fleet_rows = load.max_envs * training.unroll_length
    return tables | {
        "learner": _learner(load, training) | {"queue_batches": 2.0},
        "replay": {
            "capacity_rows": max(16 * batch_rows, 4 * fleet_rows),
            "min_rows": 2 * batch_rows,
            "burn_in": int(_BURN_IN_SHARE * training.unroll_length),
            "ratio": 0.75,
        },
        "algorithm": {"name": "r2d2"},
    }


def environment_table(side: int) -> dict[str, Any]:
    """The table [environment]: free environments with images of `side` by `side` pixels."""
    return {
        "kind": "function",
        "id": "tools.bench.free_environments:make",
        "frames_per_step": FRAMES_PER_STEP,
        "kwargs": {"side": side},
    }


def _tables(load: Load, frame_stack: int) -> Tables:
    return {
        "total_env_frames": 10**13,
        "checkpoint_interval_s": _NEVER_S,
        "local_envservers": 0,
        "environment": environment_table(load.side),
        "network": {"torso": load.torso, "frame_stack": frame_stack},
        "inference": {
            "device": load.device, "max_envs": load.max_envs, "max_batch": load.max_batch,
        },
        "learner": {"device": load.device},
    }  # fmt: skip


def _learner(load: Load, training: Training) -> dict[str, Any]:
    return {
        "device": load.device,
        "unroll_length": training.unroll_length,
        "batch_size": training.batch_size,
    }
