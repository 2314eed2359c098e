"""Which environments only evaluate, and the positions of the others in the fleet."""

from __future__ import annotations

import logging

import numpy as np

from seed.wire.arrays import BoolArray, Float32Array, Int64Array

log = logging.getLogger(__name__)


def evaluation_environments(max_envs: int, share: float) -> BoolArray:
    """Which env_ids are evaluation environments, spread evenly over all. `[max_envs] bool`

    Of the first n env_ids, n * share are, rounded down, for every n.
    """
    # 100 * 0.29 is a little less than 29.
    evaluations = np.floor(np.arange(max_envs + 1) * share + 1e-9)
    evaluation: BoolArray = np.diff(evaluations) > 0
    return evaluation


def tell_missing_evaluation(num_envs: int, evaluation: BoolArray) -> None:
    """Says in the log where none of the environments connected evaluates, but a later one will.

    Args:
        num_envs: Environments connected; they have the lowest env_ids.
        evaluation: Which env_ids are evaluation environments. `[max_envs] bool`
    """
    if evaluation.any() and not evaluation[:num_envs].any():
        log.info(
            "no evaluation environment yet: by inference.evaluation_share the first is number %d "
            "of those that connect, and there are %d", evaluation.argmax() + 1, num_envs,
        )  # fmt: skip


def fleet_positions(connected: Int64Array, evaluation: BoolArray) -> Float32Array:
    """Each environment's position in the fleet, by env_id. `[max_envs] float32`

    Those of the connected training environments are evenly spaced from 0 for the lowest env_id to
    1 for the highest; one alone is at 0. So is every other environment.

    Args:
        connected: env_ids of all that are connected, all different. `[n] int64`
        evaluation: Which env_ids are evaluation environments. `[max_envs] bool`
    """
    training = np.sort(connected[~evaluation[connected]])
    positions = np.zeros(len(evaluation), np.float32)
    positions[training] = np.linspace(0.0, 1.0, len(training))
    return positions
