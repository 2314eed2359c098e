"""Which values a configuration refuses, and with what words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from seed.config.checks import check, check_source
from seed.config.schema import AtariConfig, Config, ConfigError, EnvironmentConfig
from seed.store.fleet import evaluation_environments


def change(config: Any, path: str, value: Any) -> Any:
    """The configuration with one field changed, such as "learner.batch_size"."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: change(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize(
    "path",
    [
        "total_env_frames",
        "keep_checkpoints",
        "network.frame_stack",
        "inference.max_envs",
        "inference.max_batch",
        "inference.min_batch",
        "inference.threads",
        "learner.unroll_length",
        "learner.batch_size",
        "learner.publish_every_updates",
        "learner.threads",
        "learner.queue_batches",
        "local.envs_per_server",
        "local.groups_per_server",
        "environment.frames_per_step",
        "environment.atari.action_repeat",
    ],
)
def test_refuses_zero(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{path} = 0: expected at least 1$"):
        check(change(Config(), path, 0))


@pytest.mark.parametrize(
    "path",
    [
        "seed",
        "network.lstm_size",
        "inference.max_wait_us",
        "inference.lease_s",
        "optimizer.learning_rate",
        "optimizer.final_learning_rate_fraction",
        "optimizer.epsilon",
        "optimizer.clip_norm",
        "environment.atari.noop_max",
        "local_envservers",
        "log_interval_s",
        "checkpoint_interval_s",
        "replay.capacity_rows",
        "replay.capacity_gib",
        "replay.burn_in",
        "replay.min_rows",
    ],
)
def test_refuses_negative_numbers(path: str) -> None:
    check(change(Config(), path, 0))
    with pytest.raises(ConfigError, match=rf"^{path} = -1: expected at least 0$"):
        check(change(Config(), path, -1))


@pytest.mark.parametrize(
    "path",
    ["learner.queue_batches", "optimizer.learning_rate", "optimizer.momentum",
     "replay.capacity_gib", "replay.priority_exponent"],
)  # fmt: skip
def test_refuses_nan(path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path} = nan"):
        check(change(Config(), path, float("nan")))


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_refuses_a_share_of_evaluation_environments_that_is_none(share: float) -> None:
    for good in (0.0, 0.3, 1.0):
        check(change(Config(), "inference.evaluation_share", good))
    with pytest.raises(ConfigError, match=r"^inference.evaluation_share = .*expected from 0 to 1"):
        check(change(Config(), "inference.evaluation_share", share))


# 1 / 49 of 49 is, in floating point, a little less than 1.
@pytest.mark.parametrize("max_envs", [1, 49, 256])
def test_refuses_a_share_too_small_for_any_evaluation_environment(max_envs: int) -> None:
    config = change(Config(), "inference.max_envs", max_envs)
    share = 1 / max_envs
    check(change(config, "inference.evaluation_share", share))
    assert evaluation_environments(max_envs, share).any()
    for none in (0.99 * share, 1e-12):
        assert not evaluation_environments(max_envs, none).any()
        with pytest.raises(ConfigError, match=rf"max_envs = {max_envs} at least, or 0$"):
            check(change(config, "inference.evaluation_share", none))


@pytest.mark.parametrize("limit_s", [-1.0, 0.5, 1e7, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["watchdog_s", "local.step_timeout_s"])
def test_refuses_a_limit_that_never_or_always_bites(name: str, limit_s: float) -> None:
    for good in (0.0, 1.0, 300.0):
        check(change(Config(), name, good))
    with pytest.raises(ConfigError, match=rf"^{name} = .*: expected 0, for none, or from 1 to"):
        check(change(Config(), name, limit_s))


@pytest.mark.parametrize("path", ["learner.queue_batches", "replay.capacity_gib"])
def test_refuses_a_size_without_end(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{path} = inf: expected a finite number$"):
        check(change(Config(), path, float("inf")))


@pytest.mark.parametrize("name", ["priority_exponent", "importance_exponent"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_refuses_exponents_that_turn_sampling_around(name: str, value: float) -> None:
    for good in (0.0, 1.0):
        check(change(Config(), f"replay.{name}", good))
    with pytest.raises(ConfigError, match=rf"^replay.{name} = {value}: expected from 0 to 1$"):
        check(change(Config(), f"replay.{name}", value))


@pytest.mark.parametrize("name", ["decay", "momentum", "beta1", "beta2"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0])
def test_refuses_averages_that_never_settle(name: str, value: float) -> None:
    path = f"optimizer.{name}"
    check(change(Config(), path, 0.0))
    check(change(Config(), path, 0.999))
    with pytest.raises(ConfigError, match=rf"^{path} = {value}: expected from 0 to below 1$"):
        check(change(Config(), path, value))


# RMSProp divides by the root of it alone where a weight never had a gradient.
def test_refuses_epsilon_zero_for_rmsprop_only() -> None:
    config = change(Config(), "optimizer.epsilon", 0.0)
    check(change(config, "optimizer.kind", "adam"))
    with pytest.raises(ConfigError, match=r"optimizer.epsilon = 0.0: rmsprop_tf divides by it"):
        check(change(config, "optimizer.kind", "rmsprop_tf"))


# Less than one batch in the queue, and the learner could wait for ever.
def test_the_queue_holds_a_batch_at_least() -> None:
    with pytest.raises(ConfigError, match=r"learner.queue_batches = 0.99"):
        check(change(Config(), "learner.queue_batches", 0.99))


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:*", "tcp://localhost:1", "tcp://[::1]:65535",
     "ipc:///tmp/seed.sock"],
)  # fmt: skip
def test_takes_addresses_of_this_machine(address: str) -> None:
    check(change(Config(), "inference.address", address))


@pytest.mark.parametrize(
    "address",
    ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://10.0.0.1:5555",
     "tcp://learner.example:5555"],
)  # fmt: skip
def test_refuses_open_addresses_unless_told_so(address: str) -> None:
    config = change(Config(), "inference.address", address)
    with pytest.raises(ConfigError, match=r"other machines could reach it .* seed-keys"):
        check(config)
    check(change(config, "inference.insecure_no_auth", True))
    config = change(config, "inference.secret_key", "learner.key")
    check(change(config, "inference.allowed_keys", "allowed"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "tcp://*:5555"])
def test_half_of_the_keys_is_refused(address: str) -> None:
    config = change(Config(), "inference.address", address)
    with pytest.raises(ConfigError, match=r"inference.allowed_keys = '': .*inference.secret_key"):
        check(change(config, "inference.secret_key", "learner.key"))
    with pytest.raises(ConfigError, match=r"inference.secret_key = '': .*inference.allowed_keys"):
        check(change(config, "inference.allowed_keys", "allowed"))


def test_keys_and_no_keys_at_once_are_refused() -> None:
    config = change(Config(), "inference.secret_key", "learner.key")
    config = change(config, "inference.allowed_keys", "allowed")
    with pytest.raises(ConfigError, match=r"insecure_no_auth = true: expected false"):
        check(change(config, "inference.insecure_no_auth", True))


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:5555", "tcp://127.0.0.1", "tcp://:5555", "tcp://127.0.0.1:65536",
     "tcp://127.0.0.1:http", "tcp://127.0.0.1:-1", "udp://127.0.0.1:5555"],
)  # fmt: skip
def test_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match='expected tcp://HOST:PORT, ipc://PATH or "auto"'):
        check(change(Config(), "inference.address", address))


def test_refuses_a_path_that_no_socket_can_have() -> None:
    with pytest.raises(ConfigError, match=r"inference.address = .* takes 107 at most; choose"):
        check(change(Config(), "inference.address", "ipc:///" + "a" * 107))


# A name only looks like an address of the loopback network here.
def test_a_name_that_starts_like_loopback_is_not_loopback() -> None:
    with pytest.raises(ConfigError, match="other machines could reach it"):
        check(change(Config(), "inference.address", "tcp://127.example.com:5555"))


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("inference.min_batch", 257, r"at most inference.max_batch = 256"),
        ("local.groups_per_server", 33, r"at most local.envs_per_server = 32"),
        ("network.frame_stack", 22, r"at most learner.unroll_length \+ 1 = 21"),
    ],
)
def test_refuses_values_that_do_not_fit_each_other(path: str, value: int, remedy: str) -> None:
    check(change(Config(), path, value - 1))
    with pytest.raises(ConfigError, match=f"{path} = {value}: expected {remedy}"):
        check(change(Config(), path, value))


# Such a group would be refused when it connects, long after the start.
@pytest.mark.parametrize(("envs", "groups", "largest"), [(32, 2, 16), (33, 2, 17), (7, 1, 7)])
def test_refuses_local_groups_that_no_batch_holds(envs: int, groups: int, largest: int) -> None:
    config = change(Config(), "local.envs_per_server", envs)
    config = change(config, "local.groups_per_server", groups)
    check(change(config, "inference.max_batch", largest))
    small = change(config, "inference.max_batch", largest - 1)
    with pytest.raises(ConfigError, match=rf"max_batch = {largest - 1}: .* {largest} environments"):
        check(small)
    check(change(small, "local_envservers", 0))


# The store keeps the rows since an episode's start in one byte.
def test_refuses_a_frame_stack_that_the_store_cannot_count() -> None:
    config = change(Config(), "learner.unroll_length", 1000)
    check(change(config, "network.frame_stack", 256))
    with pytest.raises(ConfigError, match=r"network.frame_stack = 257"):
        check(change(config, "network.frame_stack", 257))


def test_defaults_can_run() -> None:
    check(Config())


def test_frames_of_a_step() -> None:
    atari = AtariConfig(action_repeat=3)
    assert EnvironmentConfig(kind="atari", atari=atari).frames_per_env_step == 3
    assert EnvironmentConfig(kind="gymnasium", atari=atari).frames_per_env_step == 1
    other = EnvironmentConfig(kind="function", frames_per_step=2, atari=atari)
    assert other.frames_per_env_step == 2


@pytest.mark.parametrize(
    ("path", "value"), [("burn_in", 4), ("ratio", 2.0), ("capacity_rows", 1), ("device", "cpu")]
)
def test_refuses_a_replay_beside_the_queue(path: str, value: Any) -> None:
    check_source(Config(), "queue")
    config = change(Config(algorithm_name="mine"), f"replay.{path}", value)
    check_source(config, "replay")
    with pytest.raises(ConfigError, match=r"^replay: algorithm 'mine' learns from the queue; "):
        check_source(config, "queue")


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_a_replay_ratio_that_cannot_be_kept(ratio: float) -> None:
    check_source(change(Config(), "replay.ratio", 0.01), "replay")
    with pytest.raises(ConfigError, match=rf"^replay.ratio = {ratio}: expected a finite number"):
        check_source(change(Config(), "replay.ratio", ratio), "replay")


# The row before the burn-in says what was done there; a stack needs more of them.
@pytest.mark.parametrize(("frame_stack", "longest"), [(1, 19), (2, 19), (4, 17), (21, 0)])
def test_the_burn_in_must_be_in_the_page_before(frame_stack: int, longest: int) -> None:
    config = change(Config(), "network.frame_stack", frame_stack)
    check_source(change(config, "replay.burn_in", longest), "replay")
    with pytest.raises(ConfigError, match=rf"burn_in = {longest + 1}: expected at most {longest},"):
        check_source(change(config, "replay.burn_in", longest + 1), "replay")


@pytest.mark.parametrize("source", ["queue", "replay"])
def test_refuses_training_with_evaluation_environments_only(
    source: Literal["queue", "replay"]
) -> None:
    check_source(change(Config(), "inference.evaluation_share", 0.99), source)
    with pytest.raises(ConfigError, match=r"^inference.evaluation_share = 1.0: expected less than"):
        check_source(change(Config(), "inference.evaluation_share", 1.0), source)
