"""From a plan to the parts of a run: memory is taken, the socket is bound, and nothing moves."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from seed.config.addresses import AUTO, USUAL
from seed.config.schema import Config, InferenceConfig
from seed.contract.answers import check_first_priorities
from seed.contract.loading import acting_part, optional_initial_priorities
from seed.inference.forward import ForwardPass
from seed.inference.loop import Inference
from seed.inference.rounds import Rounds
from seed.inference.sessions import Offer
from seed.learner import checkpoint
from seed.learner.checkpoint import CheckpointError
from seed.learner.loop import Learner, Progress
from seed.learner.replay import Replay
from seed.learner.replay_files import UnfitReplay
from seed.learner.sources import BatchSource, QueueSource, RoundSource
from seed.networks.body import Body
from seed.run.folder import RunFolder
from seed.run.plan import Plan, describe_bodies, has_replay, make_agent, queue_limit
from seed.run.provenance import provenance
from seed.run.resume import environment_of, restore
from seed.store.layout import StoreLayout
from seed.store.rows import Unroll
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import Authentication, make_authentication

log = logging.getLogger(__name__)


class ProgressCounter:
    """Counts the steps and the time of this process and those before it; thread-safe."""

    def __init__(self, start: Progress, inference: Inference) -> None:
        """From where a checkpoint has left the run, on with the steps of this inference."""
        self._start = start
        self._inference = inference
        self.begin()

    def begin(self) -> None:
        """Counts time from now on: to load a checkpoint and its replay takes none of the run's."""
        self._began_s = time.monotonic()

    def read(self) -> Progress:
        """Steps and time so far. Updates are the learner's to count: here they are 0."""
        return Progress(
            env_steps=self._start.env_steps + self._inference.env_steps,
            time_s=self._start.time_s + time.monotonic() - self._began_s,
        )


@dataclasses.dataclass
class Run:
    """The parts of a run that is about to start, and its hold on its folder."""

    config: Config
    store: UnrollStore
    inference: Inference
    learner: Learner
    counter: ProgressCounter
    folder: RunFolder
    lockstep: bool

    def progress(self) -> Progress:
        """Steps, updates and time of this process and those before it; thread-safe."""
        return dataclasses.replace(self.counter.read(), learner_steps=self.learner.learner_steps)

    def env_frames(self) -> int:
        """Frames so far, over all processes of the run."""
        return self.counter.read().env_steps * self.config.environment.frames_per_env_step

    def hold_folder(self) -> None:
        """Sees to it that the run's folder is there and this process's own; thread-safe.

        Raises:
            RunTaken: where another learner works there by now.
            OSError: where that cannot be told.
        """
        if self.folder.hold():
            self.learner.forget_checkpoints()


def build_run(plan: Plan, folder: RunFolder) -> Run:
    """Everything but threads and processes; the socket is bound.

    Raises:
        ConfigError: where the address cannot be bound.
        CheckpointError: where the plan's checkpoint does not fit its network.
    """
    config = plan.config
    twin = make_agent(plan.algorithm, config, plan.spaces, plan.acting_device)
    acting = acting_part(plan.algorithm, twin)
    store = make_store(plan.layout, plan.store_device, plan.learning_device)
    slot = WeightSlot()
    authentication = make_authentication(config.inference)
    inference = make_inference(plan, store, acting, slot, authentication=authentication)
    start = Progress()
    if plan.loaded is not None:
        start = Progress(plan.loaded.state["env_steps"], time_s=plan.loaded.state["time_s"])
    counter = ProgressCounter(start, inference)
    source = _make_source(plan, store, start.env_steps)
    kept = source if isinstance(source, Replay) and config.replay.in_checkpoint else None
    learner = Learner(
        config, plan.algorithm, plan.agent, source, slot, counter.read, _kept_state(plan),
        kept.save if kept is not None else None, folder.hold, inference.server_of,
    )  # fmt: skip
    if plan.loaded is not None:
        restore(learner, plan.loaded, config)
        if kept is not None and plan.loaded.path is not None:
            _load_replay(kept, plan.loaded.path)
    for line in describe_bodies(plan.agent):
        log.info("%s", line)
    learner.publish()
    # What is sampled from here on is not what an earlier process of this run has sampled.
    torch.manual_seed(sum(plan.seed))
    counter.begin()
    return Run(
        config, store, inference, learner, counter, folder, lockstep=plan.first_envs is not None
    )


def _kept_state(plan: Plan) -> dict[str, object]:
    """What every checkpoint says of the run."""
    return {
        "spaces": plan.spaces.to_map(),
        "environment": environment_of(plan.config),
        **provenance(plan.config),
    }


def make_store(
    layout: StoreLayout, device: torch.device, learning_device: torch.device
) -> UnrollStore:
    """A store with its memory on the device.

    Where that is host memory and learning is on a GPU, batches are gathered for that GPU.
    """
    to_gpu = device.type == "cpu" and learning_device.type == "cuda"
    return UnrollStore(layout, device, pinned=to_gpu)


def _make_source(plan: Plan, store: UnrollStore, start_env_steps: int) -> BatchSource:
    batch_size = plan.config.learner.batch_size
    if plan.first_envs is not None:
        return RoundSource(store, start_env_steps)
    if not has_replay(plan.algorithm):
        return QueueSource(store, batch_size)
    return Replay(
        store,
        batch_size,
        plan.config.replay,
        np.random.default_rng(plan.seed),
        _first_priorities(plan),
    )


def _first_priorities(plan: Plan) -> Callable[[Unroll], Tensor] | None:
    """What gives new unrolls their priorities; None where the algorithm leaves that out."""
    initial = optional_initial_priorities(plan.algorithm)
    if initial is None:
        return None

    def give(unroll: Unroll) -> Tensor:
        found = initial(unroll, plan.config.algorithm)
        batch = len(unroll.importance)
        return check_first_priorities(found, plan.config.algorithm_name, batch=batch)

    return give


def _load_replay(replay: Replay, path: Path) -> None:
    """Takes the replay out of the checkpoint there; without one, replay fills anew."""
    try:
        folder = checkpoint.find_replay(path)
        if folder is not None:
            replay.load(folder)
            log.info("replay holds %d unrolls", len(replay))
    except (CheckpointError, UnfitReplay) as error:
        log.warning("replay starts empty: %s", error)


def make_inference(
    plan: Plan,
    store: UnrollStore,
    agent: nn.Module,
    slot: WeightSlot,
    *,
    greedy: bool = False,
    authentication: Authentication | None = None,
) -> Inference:
    """Inference that acts with this agent, which is its own from here on; binds the socket.

    Raises:
        ConfigError: where the address cannot be bound.
    """
    config, spaces = plan.config, plan.spaces
    prepare_to_act(agent)
    forward = ForwardPass(
        plan.algorithm, config.algorithm, agent, store, config.inference.max_batch,
        greedy=greedy, cuda_graphs=config.inference.cuda_graphs,
    )  # fmt: skip
    environment = dataclasses.asdict(config.environment)
    offer = Offer(environment, spaces.observation, spaces.action, plan.seed)
    rounds = None
    if plan.first_envs is not None:
        rounds = Rounds(
            config.inference, config.learner.unroll_length, plan.first_envs, drop=store.drop
        )
    return Inference(
        _with_known_address(config), offer, forward, store, slot,
        queue_limit=queue_limit(config), publish=store.publish, rounds=rounds,
        authentication=authentication,
    )  # fmt: skip


def _with_known_address(config: Config) -> InferenceConfig:
    """With the usual address for "auto" where environment servers must know it beforehand."""
    inference = config.inference
    if inference.address == AUTO and (config.local_envservers == 0 or inference.secret_key):
        return dataclasses.replace(inference, address=USUAL)
    return inference


def prepare_to_act(agent: nn.Module) -> None:
    """Makes this agent one that only acts: in evaluation mode, its torso's weights rounded."""
    for module in agent.eval().modules():
        if isinstance(module, Body):
            module.round_weights()
