"""The configuration of a run: frozen dataclasses, one per table of the TOML file.

Every field is explained by the string below it, which `seed-learner --help` prints.
`seed.config.loading` reads them from a file and from the command line, `seed.config.checks` refuses
values that no run can work with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from seed.config.addresses import AUTO
from seed.process.exit_codes import CommandError

Scalar = bool | int | float | str


class ConfigError(CommandError, ValueError):
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
    round_wait_s: float = 60.0
    """In lock-step, seconds for which all wait for a late group of environments; then the round
    goes on without it. The first round waits as long after the last group has come."""
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
    burn_in: int = 0
    """Rows before each unroll that only bring the recurrent state up to date (K)."""
    queue_batches: float = 1.0
    """Batches of finished unrolls that may wait before inference pauses; bounds policy lag.
    With replay, of unrolls that wait to be inserted."""
    publish_every_updates: int = 1
    """Updates after which the weights are handed to inference."""
    lockstep: bool | Literal["auto"] = "auto"
    """Whether acting waits for each update: a batch is one unroll of every environment, whatever
    `batch_size` says, and policy lag is 0. "auto" is what the algorithm asks for."""
    lockstep_envs: int = 0
    """Environments that the first round of lock-step waits for; 0: those of the local servers."""
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
    burn_in: int | None = None
    """The former name of `learner.burn_in`."""
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

    @property
    def burn_in(self) -> int:
        """Rows before each unroll (K), by either of the field's names."""
        return self.learner.burn_in or self.replay.burn_in or 0
