"""From where to where each number of a configuration may go.

The upper ends are far beyond any use, and below what breaks something: a wait that the system's
calls do not take, threads that end the process, sizes that wrap round. Relations between fields
are checked where the fields are.
"""

from __future__ import annotations

import math
from typing import Any

_ANY_TIME_S = 10**9
_ANY_ROWS = 10**12

# Least and most, both allowed, by full name. Numbers that are not here have checks of their own.
RANGES: dict[str, tuple[float, float]] = {
    # Names of checkpoints have 14 digits for frames, and an update has a frame at least.
    "total_env_frames": (1, 10**13),
    "keep_checkpoints": (1, 10**4),
    "log_interval_s": (0, _ANY_TIME_S),
    "checkpoint_interval_s": (0, _ANY_TIME_S),
    "environment.frames_per_step": (1, 10**6),
    "environment.atari.action_repeat": (1, 10**4),
    "environment.atari.sticky_action_probability": (0, 1),
    "environment.atari.noop_max": (0, 10**6),
    "environment.atari.max_frames_per_episode": (1, 2**31 - 1),
    "environment.atari.screen_size": (1, 2048),
    # Rows since an episode's start are counted in one byte.
    "network.frame_stack": (1, 256),
    "network.lstm_size": (0, 10**5),
    "network.lstm_forget_bias": (-100, 100),
    "inference.max_envs_per_key": (0, 10**8),
    "inference.max_envs": (1, 10**8),
    "inference.max_batch": (1, 10**6),
    "inference.min_batch": (1, 10**6),
    # An hour: milliseconds must fit the C int of a poll.
    "inference.max_wait_us": (0, 3600 * 10**6),
    # A million threads of torch's are a segmentation fault.
    "inference.threads": (1, 1024),
    "inference.round_wait_s": (1, _ANY_TIME_S),
    "inference.lease_s": (0, _ANY_TIME_S),
    "learner.unroll_length": (1, 10**6),
    "learner.batch_size": (1, 10**6),
    "learner.burn_in": (0, 10**6),
    "learner.queue_batches": (1, 10**6),
    "learner.publish_every_updates": (1, 10**10),
    "learner.lockstep_envs": (0, 10**8),
    "learner.threads": (1, 1024),
    "replay.capacity_rows": (0, _ANY_ROWS),
    "replay.capacity_gib": (0, 10**6),
    "replay.burn_in": (0, 10**6),
    "replay.min_rows": (0, _ANY_ROWS),
    "optimizer.learning_rate": (0, 10**6),
    "optimizer.final_learning_rate_fraction": (0, 10**3),
    "optimizer.epsilon": (0, 10**6),
    "optimizer.clip_norm": (0, 1e30),
    # What one environment server may have, by the protocol.
    "local.envs_per_server": (1, 65_536),
    "local.groups_per_server": (1, 64),
}


def find_out_of_range(config: Any) -> str:
    """The first number out of its range, with what was expected; empty where all are in theirs.

    NaN is in no range, and None, for what is not given, in every one.
    """
    for name, (least, most) in RANGES.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} = {value!r}: expected a finite number"
        if value < least:
            return f"{name} = {value!r}: expected at least {least}"
        if value > most:
            return f"{name} = {value!r}: expected at most {most}"
    return ""
