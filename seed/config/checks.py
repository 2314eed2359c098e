"""What no run can work with: values out of their ranges, and fields that do not fit each other."""

from __future__ import annotations

import math
from typing import Literal

from seed.config.addresses import complaint_about, is_local
from seed.config.ranges import find_out_of_range
from seed.config.schema import Config, ConfigError, InferenceConfig, ReplayConfig

_SEEDS = 2**62
_LONGEST_LIMIT_S = 1_000_000
_MOST_LOCAL_SERVERS = 1000
_MOST_LAYERS, _WIDEST_LAYER = 100, 100_000
_MOST_RATIO = 1_000_000


def check(config: Config) -> None:
    """Refuses values that no run can work with.

    Raises:
        ConfigError: naming the field, the value and what was expected.
    """
    _check_ranges(config)
    _check_address(config.inference)
    _check_relations(config)


def _check_ranges(config: Config) -> None:
    if out_of_range := find_out_of_range(config):
        raise ConfigError(out_of_range)
    if not 0 <= config.seed < _SEEDS:
        expected = "at least 0" if config.seed < 0 else "less than 2**62"
        raise ConfigError(f"seed = {config.seed}: expected {expected}")
    for name in ("priority_exponent", "importance_exponent"):
        exponent = getattr(config.replay, name)
        if not 0 <= exponent <= 1:
            raise ConfigError(f"replay.{name} = {exponent}: expected from 0 to 1")
    for name in ("decay", "momentum", "beta1", "beta2"):
        share = getattr(config.optimizer, name)
        if not 0 <= share < 1:
            raise ConfigError(f"optimizer.{name} = {share}: expected from 0 to below 1")
    step_limit = ("local.step_timeout_s", config.local.step_timeout_s)
    for name, limit_s in (("watchdog_s", config.watchdog_s), step_limit):
        if limit_s != 0 and not 1 <= limit_s <= _LONGEST_LIMIT_S:
            raise ConfigError(
                f"{name} = {limit_s}: expected 0, for none, or from 1 to {_LONGEST_LIMIT_S}"
            )
    share, most = config.inference.evaluation_share, config.inference.max_envs
    # 1 / 49 of 49 is a little less than 1.
    if not 0 <= share <= 1 or 0 < share * most < 1 - 1e-9:
        raise ConfigError(
            f"inference.evaluation_share = {share}: expected from 0 to 1, and one environment of "
            f"inference.max_envs = {most} at least, or 0"
        )
    if config.optimizer.kind == "rmsprop_tf" and config.optimizer.epsilon == 0:
        raise ConfigError("optimizer.epsilon = 0.0: rmsprop_tf divides by it; expected more than 0")
    _check_hidden_sizes(config.network.hidden_sizes)
    for name, value in config.environment.kwargs.items():
        # What a message to an environment server can hold.
        if type(value) is int and not -(2**63) <= value < 2**64:
            raise ConfigError(f"environment.kwargs.{name}: expected an integer of 64 bits at most")
    servers = config.local_envservers
    if servers != "auto" and not 0 <= servers <= _MOST_LOCAL_SERVERS:
        raise ConfigError(
            f"local_envservers = {servers}: expected at "
            + ("least 0" if servers < 0 else f"most {_MOST_LOCAL_SERVERS}")
        )


def _check_hidden_sizes(sizes: tuple[int, ...]) -> None:
    if len(sizes) > _MOST_LAYERS:
        raise ConfigError(
            f"network.hidden_sizes: {len(sizes)} layers, expected at most {_MOST_LAYERS}"
        )
    if not all(1 <= size <= _WIDEST_LAYER for size in sizes):
        raise ConfigError(
            f"network.hidden_sizes = {list(sizes)}: expected at least 1 each, and at most "
            f"{_WIDEST_LAYER}"
        )


def check_source(config: Config, source: Literal["queue", "replay"]) -> None:
    """Refuses settings of a training that do not fit where the algorithm's data comes from.

    Raises:
        ConfigError: naming the field, the value and what was expected.
    """
    if config.inference.evaluation_share == 1:
        raise ConfigError(
            "inference.evaluation_share = 1.0: expected less than 1, as nothing is learned from "
            "evaluation environments"
        )
    replay = config.replay
    if source == "queue":
        if replay != ReplayConfig():
            raise ConfigError(
                f"replay: algorithm {config.algorithm_name!r} learns from the queue; leave the "
                "table [replay] out"
            )
        _check_burn_in(config)
        return
    if not 0 < replay.ratio <= _MOST_RATIO:
        if replay.ratio > 0 and math.isfinite(replay.ratio):
            raise ConfigError(f"replay.ratio = {replay.ratio}: expected at most {_MOST_RATIO}")
        raise ConfigError(f"replay.ratio = {replay.ratio}: expected a finite number above 0")
    _check_burn_in(config)


def _check_burn_in(config: Config) -> None:
    """Refuses more context than the page before an unroll has."""
    length, context = config.learner.unroll_length, max(1, config.network.frame_stack - 1)
    if config.burn_in and config.burn_in + context > length:
        field = "learner.burn_in" if config.learner.burn_in else "replay.burn_in"
        raise ConfigError(
            f"{field} = {config.burn_in}: expected at most {length - context}, as it and "
            f"{context} more for the previous action and network.frame_stack must be in the page "
            f"before: learner.unroll_length = {length}"
        )


def check_lockstep(config: Config, source: Literal["queue", "replay"], *, lockstep: bool) -> None:
    """Refuses settings that cannot be where acting waits for each update, or only there.

    Raises:
        ConfigError: naming the field, the value and what was expected.
    """
    learner, inference = config.learner, config.inference
    if not lockstep:
        if learner.lockstep_envs:
            raise ConfigError(
                f"learner.lockstep_envs = {learner.lockstep_envs}: expected 0, as acting does not "
                f"wait for updates here (learner.lockstep, algorithm {config.algorithm_name!r})"
            )
        return
    if source == "replay":
        raise ConfigError(
            f"learner.lockstep: algorithm {config.algorithm_name!r} learns from replay, which has "
            "no rounds; expected false"
        )
    reasons = {
        "learner.publish_every_updates": "every round is acted by the weights of the last update",
        "learner.queue_batches": "a round is learned from before the next one begins",
        "inference.min_batch": "a batch is all of a cohort",
    }
    for field, reason in reasons.items():
        table, name = field.split(".")
        value = getattr(getattr(config, table), name)
        if value != 1:
            raise ConfigError(f"{field} = {value}: expected 1 in lock-step, where {reason}")
    if learner.lockstep_envs > inference.max_envs:
        raise ConfigError(
            f"learner.lockstep_envs = {learner.lockstep_envs}: expected at most "
            f"inference.max_envs = {inference.max_envs}"
        )


def _check_address(inference: InferenceConfig) -> None:
    if complaint := complaint_about(inference.address):
        raise ConfigError(f"inference.address = {inference.address!r}: {complaint}")
    if bool(inference.secret_key) != bool(inference.allowed_keys):
        there, missing = ("secret_key", "allowed_keys")[:: 1 if inference.secret_key else -1]
        raise ConfigError(
            f"inference.{missing} = '': expected a path, as there is an inference.{there}; a "
            "learner's own key is of use only with those of its environment servers"
        )
    if inference.secret_key and inference.insecure_no_auth:
        raise ConfigError(
            "inference.insecure_no_auth = true: expected false, as inference.secret_key protects "
            "the address"
        )
    protected = bool(inference.secret_key) or inference.insecure_no_auth
    if not protected and not is_local(inference.address):
        raise ConfigError(
            f"inference.address = {inference.address!r}: other machines could reach it and join "
            "the run; use 127.0.0.1, or keys: inference.secret_key and inference.allowed_keys, "
            "made by seed-keys; on a network you trust, inference.insecure_no_auth = true"
        )


def _check_relations(config: Config) -> None:
    if config.inference.min_batch > config.inference.max_batch:
        raise ConfigError(
            f"inference.min_batch = {config.inference.min_batch}: expected at most "
            f"inference.max_batch = {config.inference.max_batch}"
        )
    if config.local.groups_per_server > config.local.envs_per_server:
        raise ConfigError(
            f"local.groups_per_server = {config.local.groups_per_server}: expected at most "
            f"local.envs_per_server = {config.local.envs_per_server}"
        )
    largest_group = -(-config.local.envs_per_server // config.local.groups_per_server)
    if config.local_envservers != 0 and largest_group > config.inference.max_batch:
        raise ConfigError(
            f"inference.max_batch = {config.inference.max_batch}: expected at least the "
            f"{largest_group} environments of a local group (local.envs_per_server / "
            "local.groups_per_server)"
        )
    former, burn_in = config.replay.burn_in, config.learner.burn_in
    if former is not None and burn_in and former != burn_in:
        raise ConfigError(
            f"replay.burn_in = {former}: this is the former name of learner.burn_in, which is "
            f"{burn_in}; leave it out"
        )
    stack = config.network.frame_stack
    if stack - 1 > config.learner.unroll_length:
        raise ConfigError(
            f"network.frame_stack = {stack}: expected at most "
            f"learner.unroll_length + 1 = {config.learner.unroll_length + 1}"
        )
