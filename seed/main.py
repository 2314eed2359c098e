"""`seed-learner`: puts the central process together, runs it, and says how it ended."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.logging import RichHandler

from envservers.environments import InvalidEnvironment, describe
from seed import checkpoint
from seed.authentication import hand_over, make_authentication
from seed.checkpoint import Checkpoint, CheckpointError, SaveFailed
from seed.config import Config, ConfigError, check_source
from seed.config_loading import parse_command_line, to_toml
from seed.contract import (
    Algorithm,
    find_initial_priorities,
    load_algorithm,
    load_algorithm_config,
)
from seed.devices import keep_freed_memory, resolve_device, spare_collector
from seed.display import CONSOLE, Display
from seed.divergence import Diverged
from seed.file_limits import connections_within, raise_limit
from seed.inference import Inference
from seed.learner import Learner, Progress
from seed.local_servers import LocalServerError, LocalServers, server_command, server_count
from seed.metrics import Window, Writer
from seed.origin import compare_origin, origin_of
from seed.replay import Replay
from seed.replay_files import UnfitReplay
from seed.run_lock import hold_run
from seed.serving import (
    describe_bodies,
    make_agent,
    make_inference,
    make_store,
    plan_store,
    queue_limit,
)
from seed.signals import Signals
from seed.sources import QueueSource, Source
from seed.spaces import Spaces
from seed.threads import Crew
from seed.trial import update_bytes
from seed.unrolls import UnrollStore
from seed.watchdog import Watchdog, exit_with_stacks
from seed.weights import WeightSlot

log = logging.getLogger(__name__)

# Others are where they are decided: seed/signals.py and seed/watchdog.py.
EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_DIVERGED, EXIT_NO_CHECKPOINT = 0, 1, 2, 77, 78
_TICK_S = 0.1


@dataclasses.dataclass
class Run:
    """The parts of a run that is about to start."""

    config: Config
    store: UnrollStore
    inference: Inference
    learner: Learner
    start: Progress
    started_s: float = dataclasses.field(default_factory=time.monotonic)

    def progress(self) -> Progress:
        """Steps, updates and time of this process and those before it; thread-safe."""
        return Progress(
            env_steps=self.start.env_steps + self.inference.env_steps,
            learner_steps=self.learner.learner_steps,
            time_s=self.start.time_s + time.monotonic() - self.started_s,
        )

    def env_frames(self) -> int:
        """Frames so far, over all processes of the run."""
        return self.progress().env_steps * self.config.environment.frames_per_env_step


def main(argv: list[str] | None = None, signals: Signals | None = None) -> int:
    """The `seed-learner` command; returns its exit code.

    Without `argv` it reads the command line. `signals` are those that have been taken over already.
    """
    signals = signals or Signals()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[_log_handler()], force=True
    )
    keep_freed_memory()
    try:
        command = parse_command_line(sys.argv[1:] if argv is None else argv, load_algorithm_config)
        if command.dry_run:
            print(_dry_run(command.config))
            return EXIT_DONE
        # Before a checkpoint is looked for: another learner may be about to write the newest.
        with hold_run(Path(command.config.run_dir)):
            return _train(command.config, signals)
    except (ConfigError, InvalidEnvironment, LocalServerError) as error:
        print(f"seed-learner: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except CheckpointError as error:
        print(f"seed-learner: {error}", file=sys.stderr)
        return EXIT_NO_CHECKPOINT
    except Diverged as error:
        print(f"seed-learner: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    except SaveFailed as error:
        print(f"seed-learner: {error}", file=sys.stderr)
        return EXIT_FAILED


def _log_handler() -> logging.Handler:
    """In a terminal, a handler that leaves the progress line in its place."""
    if CONSOLE.is_terminal:
        return RichHandler(console=CONSOLE, show_path=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _dry_run(config: Config) -> str:
    """The resolved configuration, then as TOML comments what a run would start."""
    loaded = _find_checkpoint(config)
    spaces = _spaces(config, loaded)
    acting = resolve_device(config.inference.device, "inference.device")
    learning = resolve_device(config.learner.device, "learner.device")
    algorithm = _load_algorithm(config)
    agent = make_agent(algorithm, config, spaces, torch.device("cpu"))
    weights = sum(parameter.numel() for parameter in agent.parameters())
    storing, replay = _store_device(algorithm, config, acting), _has_replay(algorithm)
    store = plan_store(algorithm, config, spaces, agent, storing, replay=replay)
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
        + " ".join(server_command(config.local, config.inference.address)),
    ]
    return to_toml(config) + "\n# would start:\n" + "\n".join(f"# {line}" for line in lines)


def _describe(config: Config) -> Spaces:
    return Spaces(*describe(dataclasses.asdict(config.environment)))


def _spaces(config: Config, loaded: Checkpoint | None) -> Spaces:
    """The environment's spaces; with a checkpoint, its own if they are no others.

    What was learned fits the scale of observations that was in use then.
    """
    spaces = _describe(config)
    kept = loaded.state.get("spaces") if loaded else None
    trained = Spaces.from_map(kept) if kept else spaces
    return trained if trained == spaces else spaces


def _train(config: Config, signals: Signals) -> int:
    run_dir = Path(config.run_dir)
    loaded = _find_checkpoint(config)
    count = server_count(config)
    room = connections_within(raise_limit(count))
    if room < config.inference.max_envs:
        log.warning("at most %d environment servers can connect, by `ulimit -n`", room)
    run = _assemble(config, loaded)
    _write_config(config, run_dir)
    log.info("listening on %s, run in %s", run.inference.endpoint, run_dir)
    authentication = run.inference.authentication
    key_files = hand_over(authentication) if authentication else ()
    command = server_command(config.local, run.inference.endpoint, key_files)
    spare_collector()
    signals.began()
    servers = LocalServers(command, count, run_dir / "envservers.log", key_files)
    try:
        _supervise(run, signals, servers)
    finally:
        servers.stop(timeout_s=5.0)
    return signals.exit_code


def _write_config(config: Config, run_dir: Path) -> None:
    """Leaves `config.toml` in the run's folder; raises ConfigError where that cannot be."""
    # A later start from this file goes on with the run, whatever this one started from.
    text = to_toml(dataclasses.replace(config, resume="auto"))
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        temporary = run_dir / ".config.toml.tmp"
        temporary.write_text(text)
        temporary.replace(run_dir / "config.toml")
    except OSError as error:
        raise ConfigError(
            f"run_dir = {config.run_dir!r}: cannot be written ({error.strerror})"
        ) from None


def _find_checkpoint(config: Config) -> Checkpoint | None:
    """The checkpoint to go on from, by `resume`."""
    folder = Path(config.run_dir) / "checkpoints"
    if config.resume == "never":
        if checkpoint.names(folder):
            raise ConfigError(
                f"resume = 'never': {config.run_dir} has checkpoints already; choose another "
                "run_dir, or delete it"
            )
        return None
    if config.resume == "auto":
        loaded = checkpoint.load_newest(folder)
    else:
        loaded = _load_given(Path(config.resume), folder)
    if loaded is not None:
        _check_environment(config, loaded)
    return loaded


def _load_given(path: Path, folder: Path) -> Checkpoint:
    """The checkpoint at `path`; refused where the run has newer ones, which would come first."""
    loaded = checkpoint.load(path)
    newest = max(checkpoint.names(folder), default="")
    if newest > checkpoint.name_of(loaded.state["env_frames"], loaded.state["learner_steps"]):
        raise ConfigError(
            f"resume = {str(path)!r}: {folder} has a newer checkpoint, {newest}, which the next "
            "start would take; choose another run_dir, or delete the newer ones"
        )
    return loaded


def _environment(config: Config) -> str:
    """What a run is about, as its checkpoints say it."""
    return f"{config.environment.kind} {config.environment.id}"


def _check_environment(config: Config, loaded: Checkpoint) -> None:
    """Refuses to go on with the training of another environment, whose spaces may be the same."""
    trained = loaded.state.get("environment", _environment(config))
    if trained != _environment(config):
        raise ConfigError(
            f"environment: what {loaded.path} holds is a run of {trained!r}, not of "
            f"{_environment(config)!r}; choose another run_dir, or another checkpoint to resume"
        )


def _assemble(config: Config, loaded: Checkpoint | None) -> Run:
    """Everything but threads and processes; the socket is bound."""
    algorithm = _load_algorithm(config)
    spaces = _spaces(config, loaded)
    acting_device = resolve_device(config.inference.device, "inference.device")
    learning_device = resolve_device(config.learner.device, "learner.device")
    agent = make_agent(algorithm, config, spaces, learning_device)
    for line in describe_bodies(agent):
        log.info("%s", line)
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
        {"spaces": spaces.to_map(), "environment": _environment(config), **origin_of(config)},
        kept.save if kept is not None else None, inference.server_of,
    )  # fmt: skip
    if loaded is not None:
        learner.restore(loaded)
        if kept is not None and loaded.path is not None:
            _load_replay(kept, loaded.path)
        log.info("going on from %d frames", loaded.state["env_frames"])
        if origin := compare_origin(loaded.state, config):
            log.info("%s", origin)
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
) -> Source:
    if not _has_replay(algorithm):
        return QueueSource(store, config.learner.batch_size)
    initial = find_initial_priorities(algorithm)
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


def _supervise(run: Run, signals: Signals, servers: LocalServers) -> None:
    """Runs the threads until the learner is done or a signal comes; writes the metrics."""
    config = run.config
    crew = Crew()
    window = Window(config.environment.frames_per_env_step, run.progress())
    writer = Writer(Path(config.run_dir))
    display = Display(config.total_env_frames, run.env_frames())

    def farewell() -> str:
        if signals.asked:
            return "the learner was stopped"
        complete = run.env_frames() >= config.total_env_frames
        return "the training is complete" if complete else "the learner failed"

    def log_line() -> None:
        line = window.close(run.progress(), run.inference, run.learner, run.store)
        writer.write(line)
        display.update(line)

    watched = {}
    authentication = run.inference.authentication
    if authentication is not None:
        thread = crew.start("authentication", lambda: authentication.run(crew.stop))
        watched[thread] = authentication.phases
    acting = crew.start("inference", lambda: run.inference.run(crew.stop, farewell))
    learning = crew.start("learner", lambda: run.learner.run(crew.stop))
    watched |= {acting: run.inference.phases, learning: run.learner.phases}
    watchdog = Watchdog(
        config.watchdog_s,
        watched,
        partial(exit_with_stacks, clean_up=lambda: servers.stop(0.0)),
    )
    next_line_s = time.monotonic() + config.log_interval_s
    try:
        while learning.is_alive() and not crew.stop.is_set() and not signals.asked:
            learning.join(_TICK_S)
            watchdog.check()
            servers.check(connected=run.inference.num_envs > 0)
            if time.monotonic() >= next_line_s:
                next_line_s += config.log_interval_s
                log_line()
    finally:
        try:
            crew.join(watchdog.check)
        finally:
            watchdog.close()
            log_line()
            display.close()
            writer.close()
    log.info("%s after %s frames", farewell(), f"{run.env_frames():,}")


if __name__ == "__main__":
    sys.exit(main())
