"""From a configuration, and a checkpoint, to the parts of a run; or to words about them."""

from __future__ import annotations

import logging
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import torch

from seed.config.addresses import candidates
from seed.config.checks import check_source
from seed.config.loading import to_toml
from seed.config.schema import Config
from seed.contract import Algorithm
from seed.contract.loading import load_algorithm, optional_initial_priorities
from seed.device.names import resolve_device
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError
from seed.learner.loop import Learner, Progress
from seed.learner.replay import Replay
from seed.learner.replay_files import UnfitReplay
from seed.learner.sources import BatchSource, QueueSource
from seed.learner.trial import update_bytes
from seed.run.description import describe
from seed.run.local_servers import server_command, server_count
from seed.run.parts import Run
from seed.run.provenance import provenance
from seed.run.resume import environment_of, find_checkpoint, restore
from seed.run.serving import (
    describe_bodies,
    make_agent,
    make_inference,
    make_store,
    plan_store,
    queue_limit,
)
from seed.run.spaces import Spaces
from seed.store.unrolls import UnrollStore
from seed.store.weights import WeightSlot
from seed.transport.authentication import make_authentication

log = logging.getLogger(__name__)


def assemble(config: Config, loaded: Checkpoint | None) -> Run:
    """Everything but threads and processes; the socket is bound."""
    algorithm = _load_algorithm(config)
    spaces = _spaces(config, loaded)
    acting_device = resolve_device(config.inference.device, "inference.device")
    learning_device = resolve_device(config.learner.device, "learner.device")
    agent = make_agent(algorithm, config, spaces, learning_device)
    acting = make_agent(algorithm, config, spaces, acting_device)
    store = make_store(
        algorithm, config, spaces, agent, _store_device(algorithm, config, acting_device),
        replay=_has_replay(algorithm),
        try_update=partial(update_bytes, algorithm, config, agent),
    )  # fmt: skip
    slot = WeightSlot()
    start = Progress()
    if loaded is not None:
        start = Progress(loaded.state["env_steps"], 0, loaded.state["time_s"])
    seed = (config.seed, start.env_steps)
    inference = make_inference(
        algorithm, config, spaces, store, acting, slot, store.publish, seed=seed,
        authentication=make_authentication(config.inference),
    )  # fmt: skip
    run: Run
    source = _make_source(algorithm, config, store, np.random.default_rng(seed))
    kept = source if isinstance(source, Replay) and config.replay.in_checkpoint else None
    learner = Learner(
        config, algorithm, agent, source, slot, lambda: run.progress(),
        {"spaces": spaces.to_map(), "environment": environment_of(config), **provenance(config)},
        kept.save if kept is not None else None, lambda: run.hold_folder(), inference.server_of,
    )  # fmt: skip
    if loaded is not None:
        restore(learner, loaded, config)
        if kept is not None and loaded.path is not None:
            _load_replay(kept, loaded.path)
    for line in describe_bodies(agent):
        log.info("%s", line)
    learner.publish()
    # What is sampled from here on is not what an earlier process of this run has sampled.
    torch.manual_seed(sum(seed))
    run = Run(config, store, inference, learner, start)
    return run


def _load_algorithm(config: Config) -> Algorithm:
    algorithm = load_algorithm(config.algorithm_name)
    check_source(config, algorithm.DATA_SOURCE)
    return algorithm


def _has_replay(algorithm: Algorithm) -> bool:
    return algorithm.DATA_SOURCE == "replay"


def _store_device(
    algorithm: Algorithm, config: Config, acting_device: torch.device
) -> torch.device:
    """Where the store is: on inference's device, or on replay's where that is another."""
    if _has_replay(algorithm) and config.replay.device != "auto":
        return resolve_device(config.replay.device, "replay.device")
    return acting_device


def _make_source(
    algorithm: Algorithm, config: Config, store: UnrollStore, rng: np.random.Generator
) -> BatchSource:
    if not _has_replay(algorithm):
        return QueueSource(store, config.learner.batch_size)
    initial = optional_initial_priorities(algorithm)
    return Replay(
        store,
        config.learner.batch_size,
        config.replay,
        rng,
        initial and (lambda unroll: initial(unroll, config.algorithm)),
    )


def _load_replay(replay: Replay, path: Path) -> None:
    """Takes the replay out of the checkpoint there; without one, replay fills anew."""
    try:
        folder = checkpoint.find_replay(path)
        if folder is not None:
            replay.load(folder)
            log.info("replay holds %d unrolls", len(replay))
    except (CheckpointError, UnfitReplay) as error:
        log.warning("replay starts empty: %s", error)


def _spaces(config: Config, loaded: Checkpoint | None) -> Spaces:
    """The environment's spaces; with a checkpoint, its own if they are no others.

    What was learned fits the scale of observations that was in use then.
    """
    spaces = describe(config)
    kept = loaded.state.get("spaces") if loaded else None
    trained = Spaces.from_map(kept) if kept else spaces
    return trained if trained == spaces else spaces


def dry_run(config: Config) -> str:
    """The resolved configuration, then as TOML comments what a run would start."""
    loaded = find_checkpoint(config)
    spaces = _spaces(config, loaded)
    acting = resolve_device(config.inference.device, "inference.device")
    learning = resolve_device(config.learner.device, "learner.device")
    algorithm = _load_algorithm(config)
    agent = make_agent(algorithm, config, spaces, torch.device("cpu"))
    weights = sum(parameter.numel() for parameter in agent.parameters())
    storing, replay = _store_device(algorithm, config, acting), _has_replay(algorithm)
    store = plan_store(algorithm, config, spaces, agent, storing, replay=replay)
    endpoint = candidates(config.inference.address)[0]
    command = server_command(config.local, endpoint, module_folders=config.module_folders)
    lines = [
        f"observations: {spaces.observation}",
        f"actions: {spaces.action}",
        f"agent: {type(agent).__name__} with {weights:,} weights",
        *describe_bodies(agent),
        f"acting on {acting}, learning on {learning}",
        f"from {loaded.state['env_frames']:,} frames on" if loaded else "from the first frame on",
        f"a queue of {queue_limit(config)} unrolls of {config.learner.unroll_length} steps",
        f"a store of {store.nbytes / 2**30:.3g} GiB on {storing}"
        + (f", for a replay of {store.replay_unrolls:,} unrolls" if replay else ""),
        f"{server_count(config)} local environment servers: "
        + shlex.join(command),
    ]
    return to_toml(config) + "\n# would start:\n" + "\n".join(f"# {line}" for line in lines)
