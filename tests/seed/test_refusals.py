"""Configurations that no run can work with: one table of what is given and what is said of it.

Whoever finds out first says it, from the types of fields to the memory that is there. The command
prints it as one line (tests/seed/run/test_main.py).
"""

from __future__ import annotations

import re
import tomllib

import pytest

from seed.config.checks import check
from seed.config.loading import from_tables
from seed.contract.loading import load_algorithm_config
from seed.process.exit_codes import CommandError
from seed.run.plan import plan_run
from seed.store.fleet import evaluation_environments

pytestmark = pytest.mark.usefixtures("describes_here")
REPLAY = (
    'algorithm = { name = "r2d2" }\nnetwork.lstm_size = 2\nreplay.capacity_rows = 2000\n'
)
KEYS = 'inference.secret_key = "a.key"\ninference.allowed_keys = "keys"\n'


def start(text: str) -> None:
    """As far as the plan of Catch with these lines, in which names may have dots."""
    tables = tomllib.loads(text)
    environment = tables.setdefault("environment", {})
    if isinstance(environment, dict) and not environment:
        environment |= {"kind": "function", "id": "envservers.tasks.catch:make"}
    config = from_tables(tables, load_algorithm_config)
    check(config)
    plan_run(config, None)


def lines(*rows: str) -> list[tuple[str, str]]:
    """Rows of the form GIVEN -> WORDS; what is said begins with the last line that is given."""
    parted = (row.partition(" -> ") for row in rows)
    return [(given, rf"^{re.escape(given)}: .*{re.escape(words)}") for given, _, words in parted]


AT_LEAST_1 = (
    "total_env_frames", "keep_checkpoints", "network.frame_stack", "inference.max_envs",
    "inference.max_batch", "inference.min_batch", "inference.threads", "learner.unroll_length",
    "learner.batch_size", "learner.publish_every_updates", "learner.threads",
    "local.envs_per_server", "local.groups_per_server", "environment.frames_per_step",
    "environment.atari.action_repeat",
)  # fmt: skip
AT_LEAST_0 = (
    "seed", "network.lstm_size", "inference.max_wait_us", "environment.atari.noop_max",
    "local_envservers", "replay.capacity_rows", "replay.burn_in", "replay.min_rows",
)  # fmt: skip
AT_LEAST_0_0 = (
    "inference.lease_s", "optimizer.learning_rate", "optimizer.final_learning_rate_fraction",
    "optimizer.epsilon", "optimizer.clip_norm", "log_interval_s", "checkpoint_interval_s",
    "replay.capacity_gib",
)  # fmt: skip
RANGES = lines(
    *(f"{name} = 0 -> expected at least 1" for name in AT_LEAST_1),
    *(f"{name} = -1 -> expected at least 0" for name in AT_LEAST_0),
    *(f"{name} = -1.0 -> expected at least 0" for name in AT_LEAST_0_0),
    # Less than one batch in the queue, and the learner could wait for ever.
    "learner.queue_batches = 0.99 -> expected at least 1",
    *(f"{name} = {value} -> expected a finite number"
      for name in ("learner.queue_batches", "optimizer.learning_rate", "replay.capacity_gib")
      for value in ("nan", "inf")),
    *(f"optimizer.{name} = {value} -> expected from 0 to below 1"
      for name in ("decay", "momentum", "beta1", "beta2") for value in (-0.1, 1.0, 2.0, "nan")),
    *(f"replay.{name} = {value} -> expected from 0 to 1"
      for name in ("priority_exponent", "importance_exponent") for value in (-0.1, 1.1, "nan")),
    *(f"{name} = {value} -> expected 0, for none, or from 1 to"
      for name in ("watchdog_s", "local.step_timeout_s")
      for value in (-1.0, 0.5, 10000000.0, "inf", "nan")),
    *(f"inference.evaluation_share = {value} -> expected from 0 to 1"
      for value in (-0.01, 1.01, "nan")),
    "inference.evaluation_share = 1.0 -> expected less than 1, as nothing is learned from",
    # What would break the process, or its messages.
    "learner.threads = 1000000 -> expected at most 1024",
    "inference.max_wait_us = 3600000001 -> expected at most",
    "local_envservers = 1001 -> expected at most 1000",
    # The store keeps the rows since an episode's start in one byte.
    "network.frame_stack = 257 -> expected at most 256",
)  # fmt: skip
RELATIONS = lines(
    "inference.min_batch = 257 -> expected at most inference.max_batch = 256",
    "local.groups_per_server = 33 -> expected at most local.envs_per_server = 32",
    "network.frame_stack = 22 -> expected at most learner.unroll_length + 1 = 21",
    "inference.max_batch = 15 -> expected at least the 16 environments of a local group",
)
ADDRESSES = [
    *((f'inference.address = "{address}"', 'expected tcp://HOST:PORT, ipc://PATH or "auto"')
      for address in ("", "127.0.0.1:5555", "tcp://127.0.0.1:65536", "udp://127.0.0.1:5555")),
    (f'inference.address = "ipc:///{"a" * 107}"', "takes 107 at most; choose"),
    # A name only looks like an address of the loopback network here.
    *((f'inference.address = "{address}"', r"other machines could reach it .* seed-keys")
      for address in ("tcp://*:5555", "tcp://10.0.0.1:5555", "tcp://127.example.com:5555")),
    ('inference.secret_key = "a.key"', r"^inference.allowed_keys = '': .*inference.secret_key"),
    ('inference.allowed_keys = "keys"', r"^inference.secret_key = '': .*inference.allowed_keys"),
    (KEYS + "inference.insecure_no_auth = true", "insecure_no_auth = true: expected false"),
]  # fmt: skip
FIELDS = [
    ("learner.batchsize = 4", r"^learner.batchsize = 4: unknown field \(did you mean "
     r"'batch_size'\?\); expected one of device, .*threads$"),
    ("learner.learning_rate = 4", r"did you mean 'optimizer.learning_rate'\?"),
    ("zzz = 1", "^zzz = 1: unknown field; expected one of run_dir"),
    ("[learners]", "unknown field .did you mean 'learner'"),
    ("algorithm.gamma = 0.9", "algorithm.gamma = 0.9: unknown field"),
    ('algorithm = { name = "r2d2", reduction = "sum" }', "unknown field of 'r2d2'; expected"),
    ("environment.atari.repeat = 4", "environment.atari.repeat = 4: unknown field"),
    # The algorithm's name has one place only.
    ('algorithm_name = "vtrace"', "algorithm_name = 'vtrace': unknown field"),
    ("learner.batch_size = 4.0", "learner.batch_size = 4.0: expected an integer"),
    ("learner.batch_size = true", "learner.batch_size = True: expected an integer"),
    ('learner.batch_size = "4"', "learner.batch_size = '4': expected an integer"),
    ("optimizer.learning_rate = true", "learning_rate = True: expected a number"),
    ("environment.id = 3", "environment.id = 3: expected a string"),
    ("environment.atari.grayscale = 1", "grayscale = 1: expected true or false"),
    ('optimizer.kind = "sgd"', "kind = 'sgd': expected 'rmsprop_tf' or 'adam'"),
    ('local_envservers = "many"', "local_envservers = 'many': expected an integer or 'auto'"),
    ("network.hidden_sizes = 64", "hidden_sizes = 64: expected a list of integers"),
    ("network.hidden_sizes = [64, 0.5]", r"hidden_sizes\[1\] = 0.5: expected an integer"),
    ("network.hidden_sizes = [64, 1000000]", "expected at least 1 each, and at most 100000"),
    (f"network.hidden_sizes = {[1] * 101}", "101 layers, expected at most 100"),
    ("learner = 4", "learner = 4: expected a table"),
    ("algorithm = 4", r"algorithm = 4: expected a table \[algorithm\]"),
    ("algorithm.name = 4", "algorithm.name = 4: expected a string"),
    ("environment.kwargs = { a = [1] }", r"environment.kwargs.a = \[1\]: expected"),
    *((f"environment.kwargs = {{ a = {value} }}", "kwargs.a: expected an integer of 64 bits at")
      for value in (-(2**63) - 1, 2**64)),
    *((f"{name} = 1{'0' * 400}", f"^{name} = a number of more than 77 digits: expected a smaller")
      for name in ("optimizer.learning_rate", "algorithm.discount")),
    *((f"module_folders = {value}", r"^module_folders.* = .*: expected a")
      for value in ("3", '"folder"', "[3]")),
    # A message is not as long as the value.
    (f'seed = "{"x" * 100_000}"', r"^seed = .{,300}\.\.\.: expected an integer$"),
    ('algorithm.name = "nosuch"', "^algorithm.name = 'nosuch': no module"),
    ("algorithm.discount = 1.5", "^algorithm: discount = 1.5: expected from 0 to 1$"),
    ("algorithm.clip_rho = 0", "^algorithm: clip_rho = 0.0: expected more than 0$"),
    ("algorithm.reward_clip = -1", "^algorithm: reward_clip = -1.0: expected at least 0$"),
    # RMSProp divides by the root of it alone where a weight never had a gradient.
    ('optimizer = { kind = "rmsprop_tf", epsilon = 0.0 }', "epsilon = 0.0: rmsprop_tf divides"),
]  # fmt: skip
MACHINE = [
    *((f'{side}.device = "cuda:99"', rf"^{side}.device = 'cuda:99': no such device here")
      for side in ("learner", "inference")),
    (REPLAY + 'replay.device = "cuda:99"', r"^replay.device = 'cuda:99': no such device here"),
    ('environment = { kind = "function", id = "no.such:make" }', r"no\.such"),
    ('environment = { kind = "atari", id = "ping_pong" }', "ping_pong.*pong"),
    ('environment = { kind = "gymnasium", id = "CartPoel-v1" }', "CartPoel"),
    ('network.torso = "nature"', "^network: .*nature"),
    ("local_envservers = 9", "^local_envservers = 9 with local.envs_per_server = 32: expected at"),
    ('inference.max_envs = 7\nlocal_envservers = "auto"', "max_envs = 7 environments in all"),
    ("inference.max_envs = 100000000", r"^inference.max_envs = 100000000: the store's .* GiB free"),
]  # fmt: skip
SOURCES = [
    # Of the queue, then of replay.
    *((f"replay.{setting}", r"^replay: algorithm 'vtrace' learns from the queue; ")
      for setting in ("burn_in = 4", "ratio = 2.0", "capacity_rows = 1", 'device = "cpu"')),
    (REPLAY.replace("2000", "0"), "^replay.capacity_rows = 0, replay.capacity_gib = 0.0: give one"),
    (REPLAY.replace("2000", "1000000000000"), "^replay.capacity_rows = 10+: the store's 5.* pages"),
    (REPLAY + "replay.min_rows = 2001", r"expected at least 101 \(replay.min_rows = 2001\)"),
    *((REPLAY + f"replay.ratio = {value}", rf"^replay.ratio = {value}: expected a finite number ab")
      for value in ("0.0", "-1.0", "inf", "nan")),
    (REPLAY + "replay.ratio = 1000001.0", "^replay.ratio = 1000001.0: expected at most 1000000"),
    (REPLAY + "inference.evaluation_share = 1.0", "evaluation_share = 1.0: expected less than"),
    # The row before the burn-in says what was done there; a stack needs more of them.
    *((REPLAY + f"network.frame_stack = {stack}\nreplay.burn_in = {most + 1}",
       rf"^replay.burn_in = {most + 1}: expected at most {most},")
      for stack, most in ((1, 19), (2, 19), (4, 17), (21, 0))),
    *((before + "learner.burn_in = 20", "^learner.burn_in = 20: expected at most 19,")
      for before in ("", REPLAY)),
    *((REPLAY + f"learner.burn_in = 3\nreplay.burn_in = {former}",
       rf"^replay.burn_in = {former}: this is the former name of learner.burn_in, which is 3;")
      for former in (0, 4)),
    (REPLAY + "replay.burn_in = true", r"^replay.burn_in = True: expected an integer$"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [*RANGES, *RELATIONS, *ADDRESSES, *FIELDS, *MACHINE, *SOURCES],
    ids=lambda text: text[-60:],
)
def test_what_no_run_can_work_with_is_refused_by_name(given: str, words: str) -> None:
    with pytest.raises(CommandError, match=words) as refused:
        start(given)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "given",
    [
        *(f"{name} = 0" for name in ("watchdog_s", "inference.lease_s", "optimizer.epsilon",
                                     "optimizer.clip_norm", "log_interval_s", "optimizer.beta1",
                                     "local.step_timeout_s", "network.lstm_size")),
        "watchdog_s = 1.0",
        "optimizer.decay = 0.999",
        "inference.evaluation_share = 0.99",
        "inference.min_batch = 256",
        "local.groups_per_server = 32",
        "network.frame_stack = 21",
        "learner.unroll_length = 1000\nnetwork.frame_stack = 256",
        "inference.max_batch = 16",
        # Such a group is refused when it connects.
        "inference.max_batch = 15\nlocal_envservers = 0",
        "local = { envs_per_server = 33, groups_per_server = 2 }\ninference.max_batch = 17",
        'inference = { address = "tcp://*:5555", insecure_no_auth = true }',
        KEYS + 'inference.address = "tcp://10.0.0.1:5555"',
        'inference.address = "ipc:///tmp/seed.sock"',
        f"environment.kwargs = {{}}\nseed = {2**62 - 1}",
        *(REPLAY + f"replay.{setting}" for setting in (
            "ratio = 0.01", "priority_exponent = 0", "importance_exponent = 1", 'device = "cpu"')),
        *(REPLAY + f"network.frame_stack = {stack}\nreplay.burn_in = {most}"
          for stack, most in ((1, 19), (4, 17), (21, 0))),
        "learner.burn_in = 19",
        REPLAY + "learner.burn_in = 3\nreplay.burn_in = 3",
    ],
    ids=lambda text: text[-60:],
)  # fmt: skip
def test_what_is_just_within_is_taken(given: str) -> None:
    start(given)


# 1 / 49 of 49 is, in floating point, a little less than 1.
@pytest.mark.parametrize("max_envs", [32, 49, 256])
def test_refuses_a_share_too_small_for_any_evaluation_environment(max_envs: int) -> None:
    given = f"inference.max_envs = {max_envs}\ninference.evaluation_share = "
    start(f"{given}{1 / max_envs}")
    assert evaluation_environments(max_envs, 1 / max_envs).any()
    for none in (0.99 / max_envs, 1e-12):
        assert not evaluation_environments(max_envs, none).any()
        with pytest.raises(CommandError, match=rf"max_envs = {max_envs} at least, or 0$"):
            start(f"{given}{none}")
