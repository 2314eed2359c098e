"""The configuration of a run: frozen dataclasses, one per table of the TOML file.

Every field is explained by the string below it, which `seed-learner --help` prints.
`seed.config_loading` reads them from a file and from the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from seed.addresses import AUTO, complaint_about, is_local
from seed.ranges import find_out_of_range

Scalar = bool | int | float | str
_SEEDS = 2**62
_LONGEST_LIMIT_S = 1_000_000
_MOST_LOCAL_SERVERS = 1000
_MOST_LAYERS, _WIDEST_LAYER = 100, 100_000
_MOST_RATIO = 1_000_000


class ConfigError(ValueError):
    """A configuration that cannot be run; its text names the field, the value, the remedy."""


@dataclass(frozen=True)
class AtariConfig:
    """How the emulator's frames become observations; used where `environment.kind = "atari"`."""

    action_repeat: int = 4
    """Emulator frames for which each action is held."""
    full_action_set: bool = False
    """All 18 joystick actions instead of the ones that the game uses."""
    sticky_action_probability: float = 0.0
    """Probability that the emulator repeats its previous action for a frame."""
    noop_max: int = 30
    """Most no-op frames at the start of an episode; the number is drawn at random."""
    max_frames_per_episode: int = 108_000
    """Emulator frames after which an episode is truncated (108 000 is 30 minutes)."""
    life_loss_ends_episode: bool = False
    """Whether the loss of a life ends an episode for learning; returns count whole games."""
    fire_reset: bool = False
    """Whether FIRE is pressed once after a reset, in games that wait for it."""
    screen_size: int = 84
    """Height and width of an observation in pixels."""
    grayscale: bool = True
    """One gray channel instead of three colours."""
    max_pool: bool = True
    """Pixel-wise maximum over the last two frames, against sprites that flicker."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """What the environment servers run; sent to them when they connect."""

    kind: Literal["atari", "gymnasium", "function"] = "gymnasium"
    """Where `id` is looked up: ale-py's native emulator, Gymnasium, or a Python function."""
    id: str = "CartPole-v1"
    """A game ("pong"), a Gymnasium id ("CartPole-v1"), or "package.module:function"."""
    vectorization: Literal["sync", "async", "native"] = "sync"
    """How Gymnasium runs a group: in turn, in processes, or the environment's own vector class."""
    frames_per_step: int = 1
    """Frames that one step counts for; where `kind = "atari"`, `action_repeat` counts instead."""
    kwargs: dict[str, Scalar] = field(default_factory=dict)
    """Keyword arguments for the Gymnasium environment or the function."""
    atari: AtariConfig = AtariConfig()

    @property
    def frames_per_env_step(self) -> int:
        """Frames per step, for every figure given in frames."""
        return self.atari.action_repeat if self.kind == "atari" else self.frames_per_step


@dataclass(frozen=True)
class NetworkConfig:
    """The body of the network, from observations to features."""

    torso: Literal["auto", "nature", "impala_shallow", "impala_deep", "mlp"] = "auto"
    """First layers; "auto" takes "nature" for images and "mlp" for the rest."""
    frame_stack: int = 1
    """Newest observations that the network sees together; stacks end at an episode's start."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the layers of the "mlp" torso."""
    lstm_size: int = 0
    """Units of the LSTM after the torso; 0 for none."""
    lstm_forget_bias: float = 1.0
    """Added to the forget gate's bias at the start: 1 lets a memory fade within a few rows, 3
    within some 20."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """What torso and LSTM compute in; weights, heads and losses stay float32. "auto" is bfloat16
    on devices that have instructions for it, where it is faster."""


@dataclass(frozen=True)
class InferenceConfig:
    """The socket and the batched forward pass."""

    address: str = AUTO
    """Where environment servers connect; a port of "*" takes a free one and prints it. "auto" is
    tcp://127.0.0.1:5555 or, where that is taken and all of them are local ones, a free port."""
    insecure_no_auth: bool = False
    """Allows an address that other machines reach; anyone there can then join the run."""
    secret_key: str = ""
    """File of the learner's secret key (`seed-keys new`); with it, only keys in `allowed_keys`
    connect, and everything is encrypted."""
    allowed_keys: str = ""
    """Folder of the public keys (*.pub) that may connect; read again whenever it changes."""
    max_envs_per_key: int = 0
    """Environments that servers with one key (without keys: on one connection) may have at a time;
    0 sets no such limit."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; "auto" takes a GPU where there is one."""
    max_envs: int = 256
    """Environments that may be connected at a time."""
    max_batch: int = 256
    """Rows of the largest forward pass."""
    min_batch: int = 1
    """Rows for which a forward pass waits, for `max_wait_us` at most."""
    max_wait_us: int = 0
    """Longest wait for `min_batch` rows, in microseconds after the first row came."""
    threads: int = 1
    """CPU threads of the forward pass; more than 1 is slower while other processes are busy."""
    cuda_graphs: bool = False
    """Whether a GPU replays each batch's work as one CUDA graph. Needs an `act` that reads no value
    back to the host. Off, as it has not been measured on a GPU yet."""
    evaluation_share: float = 0.0
    """Share of the environments whose rows are never learned from; their returns count apart."""
    lease_s: float = 10.0
    """Seconds of silence after which an environment server's connection is tested."""


@dataclass(frozen=True)
class LearnerConfig:
    """The training step and its data."""

    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; "auto" takes a GPU where there is one."""
    unroll_length: int = 20
    """Steps of one unroll (T)."""
    batch_size: int = 32
    """Unrolls per update (B)."""
    queue_batches: float = 1.0
    """Batches of finished unrolls that may wait before inference pauses; bounds policy lag.
    With replay, of unrolls that wait to be inserted."""
    publish_every_updates: int = 1
    """Updates after which the weights are handed to inference."""
    cuda_graphs: bool = False
    """On a GPU, launches an update as two graphs instead of kernel by kernel. Needs a loss that
    never reads a value back to the host; off because it has not been measured on a GPU yet."""
    threads: int = 1
    """CPU threads of the training step; more than 1 is slower while other processes are busy."""


@dataclass(frozen=True)
class ReplayConfig:
    """Prioritized replay; for algorithms that learn from it instead of the queue."""

    capacity_rows: int = 0
    """Rows that can be learned from at a time; or give `capacity_gib`."""
    capacity_gib: float = 0.0
    """Memory of the whole store in GiB (1024^3 bytes); or give `capacity_rows`."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" for all rows; "auto" takes inference's device."""
    burn_in: int = 0
    """Rows before each unroll that only bring the recurrent state up to date (K)."""
    min_rows: int = 0
    """Rows inserted before learning starts."""
    ratio: float = 1.0
    """How often each row is learned from, in the mean: inserts or the learner wait to keep it."""
    priority_exponent: float = 0.9
    """Unrolls are sampled by priority to this power; 0 samples all alike."""
    importance_exponent: float = 0.6
    """How much of the sampling's bias the importance weights take back; 1 for all of it."""
    in_checkpoint: bool = False
    """Whether checkpoints hold the replay too; it may be many gigabytes."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become weights."""

    kind: Literal["rmsprop_tf", "adam"] = "adam"
    """TensorFlow's RMSProp (epsilon inside the root, accumulator from 1) or Adam."""
    learning_rate: float = 3e-4
    """Step size at the first frame."""
    final_learning_rate_fraction: float = 0.0
    """Share of `learning_rate` left at the last frame; linear in between. 1 keeps it constant."""
    epsilon: float = 1e-8
    """Added to the second moment (RMSProp: inside the root; Adam: outside)."""
    decay: float = 0.99
    """RMSProp's decay of the second moment."""
    momentum: float = 0.0
    """RMSProp's momentum."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    clip_norm: float = 40.0
    """Largest norm of the gradient over all weights; 0 for no clipping."""


@dataclass(frozen=True)
class LocalConfig:
    """The environment servers that the learner starts on its own machine."""

    envs_per_server: int = 32
    """Environments in each process."""
    groups_per_server: int = 2
    """Groups in each process; one steps while the others' observations are on their way."""
    step_timeout_s: float = 300.0
    """Longest time for a step, a reset, or to be made; beyond it an environment hangs. 0: any."""


@dataclass(frozen=True)
class Config:
    """One run, complete."""

    run_dir: str = "runs/default"
    """Folder of the run: config.toml, metrics.jsonl, tensorboard/, checkpoints/."""
    resume: str = "auto"
    """"auto" goes on from the run's newest checkpoint, "never" refuses a run that has one, or
    the folder of a checkpoint of the same environment to start from."""
    seed: int = 1
    """Seed of network, action sampling and environments."""
    total_env_frames: int = 10_000_000
    """Frames (action repeat counted) after which the run is complete."""
    log_interval_s: float = 10.0
    """Seconds between lines of metrics.jsonl."""
    checkpoint_interval_s: float = 300.0
    """Seconds between checkpoints."""
    watchdog_s: float = 300.0
    """Seconds without a sign of life from one of its threads after which the process prints all
    stacks and exits with code 1; 0 for no watchdog. Longer than any single system call takes."""
    module_folders: tuple[str, ...] = ()
    """Where modules of yours are found, beside the working folder and CONFIG's; in CONFIG only."""
    keep_checkpoints: int = 3
    """Checkpoints kept; older ones are deleted."""
    local_envservers: int | Literal["auto"] = "auto"
    """Environment servers started beside the learner; "auto": one for each core that this
    process, or its container, may use; 0: none. They have a lower priority than the learner: one
    per core has work whenever it leaves cores idle."""
    note: str = ""
    """Said when the run starts: what is normal for it, so that nobody wonders."""
    environment: EnvironmentConfig = EnvironmentConfig()
    network: NetworkConfig = NetworkConfig()
    inference: InferenceConfig = InferenceConfig()
    learner: LearnerConfig = LearnerConfig()
    replay: ReplayConfig = ReplayConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    local: LocalConfig = LocalConfig()
    algorithm_name: str = "vtrace"
    """A name in seed.algorithms or the import path of a module; `name` of table [algorithm]."""
    algorithm: Any = None


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
    replay, length = config.replay, config.learner.unroll_length
    if source == "queue":
        if replay != ReplayConfig():
            raise ConfigError(
                f"replay: algorithm {config.algorithm_name!r} learns from the queue; leave the "
                "table [replay] out"
            )
        return
    if not 0 < replay.ratio <= _MOST_RATIO:
        if replay.ratio > 0 and math.isfinite(replay.ratio):
            raise ConfigError(f"replay.ratio = {replay.ratio}: expected at most {_MOST_RATIO}")
        raise ConfigError(f"replay.ratio = {replay.ratio}: expected a finite number above 0")
    context = max(1, config.network.frame_stack - 1)
    if replay.burn_in + context > length:
        raise ConfigError(
            f"replay.burn_in = {replay.burn_in}: expected at most {length - context}, as it and "
            f"{context} more for the previous action and network.frame_stack must be in the page "
            f"before: learner.unroll_length = {length}"
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
    stack = config.network.frame_stack
    if stack - 1 > config.learner.unroll_length:
        raise ConfigError(
            f"network.frame_stack = {stack}: expected at most "
            f"learner.unroll_length + 1 = {config.learner.unroll_length + 1}"
        )
