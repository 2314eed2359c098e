"""What inference tells the metrics."""

from __future__ import annotations

from typing import NamedTuple


class BatchRecord(NamedTuple):
    """One batch, for the metrics.

    Attributes:
        rows: Rows of the batch.
        latency_s: From reading its oldest message off the socket to having sent its actions.
    """

    rows: int
    latency_s: float


class EpisodeRecord(NamedTuple):
    """One finished episode, for the metrics.

    Attributes:
        env_id: The environment that played it.
        episode_return: Sum of its rewards, as the environment gave them.
        length_steps: Its steps.
        evaluation: Whether this is an evaluation environment.
    """

    env_id: int
    episode_return: float
    length_steps: int
    evaluation: bool
