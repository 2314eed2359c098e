"""`seed-learner`: puts the central process together, runs it, and says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.logging import RichHandler

from seed import checkpoint
from seed.addresses import candidates
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
from seed.description import UnusableEnvironment, describe
from seed.devices import keep_freed_memory, resolve_device, spare_collector
from seed.display import CONSOLE, Display, tell
from seed.divergence import Diverged
from seed.file_limits import connections_within, raise_limit
from seed.hints import Beginning, what_comes_next
from seed.inference import Inference
from seed.learner import Learner, Progress
from seed.local_servers import LocalServerError, LocalServers, server_command, server_count
from seed.logs import PlainFormatter
from seed.metrics import Window, Writer
from seed.origin import origin_of
from seed.replay import Replay
from seed.replay_files import UnfitReplay
from seed.resume import environment_of, find_checkpoint, prepare_folder, restore
from seed.run_folder import check_entries
from seed.run_lock import RunLock, RunTaken, hold_run
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
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

# Others are where they are decided: seed/signals.py and seed/watchdog.py.
EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_DIVERGED, EXIT_NO_CHECKPOINT = 0, 1, 2, 77, 78
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_TICK_S = 0.1
# How long two learners may be in one folder that was deleted or moved.
_LOOK_EVERY_S = 1.0


@dataclasses.dataclass
class Run:
    """The parts of a run that is about to start."""

    config: Config
    store: UnrollStore
    inference: Inference
    learner: Learner
    start: Progress
    started_s: float = dataclasses.field(default_factory=time.monotonic)
    lock: RunLock | None = None

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

    def hold_folder(self) -> None:
        """Sees to it that the run's folder is there and this process's own; thread-safe.

        Raises:
            RunTaken: where another learner works there by now.
            OSError: where that cannot be told.
        """
        if self.lock is None or not self.lock.check():
            return
        log.error("%s was deleted or moved; it is made anew", self.config.run_dir)
        self.learner.forget_checkpoints()
        try:
            _write_config(self.config, Path(self.config.run_dir))
        except ConfigError as error:
            log.error("%s", error)


def main(argv: list[str] | None = None, signals: Signals | None = None) -> int:
    """The `seed-learner` command; returns its exit code.

    Without `argv` it reads the command line. `signals` are those that have been taken over already.
    """
    signals = signals or Signals()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[_log_handler()], force=True
    )
    keep_freed_memory()
    arguments = sys.argv[1:] if argv is None else argv
    try:
        command = parse_command_line(arguments, load_algorithm_config)
        if command.dry_run:
            with contextlib.redirect_stdout(sys.stderr):
                text = _dry_run(command.config)
            print(text)
            return EXIT_DONE
        # Before a checkpoint is looked for: another learner may be about to write the newest.
        with hold_run(Path(command.config.run_dir)) as lock:
            code = _train(command.config, signals, lock)
        for line in what_comes_next(command.config, arguments, complete=code == EXIT_DONE):
            tell(line)
        return code
    except (ConfigError, LocalServerError, UnusableEnvironment) as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return _code_of_refusal(error)
    except CheckpointError as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return EXIT_NO_CHECKPOINT
    except Diverged as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return EXIT_DIVERGED
    except SaveFailed as error:
        print(f"seed-learner: {printable(str(error), lines=True)}", file=sys.stderr)
        return EXIT_FAILED


def _code_of_refusal(error: Exception) -> int:
    """Another code where a disk is the reason: starting again helps once there is room."""
    reason = error.__cause__ or error.__context__
    disk = isinstance(reason, OSError) and reason.errno in _DISK_ERRORS
    return EXIT_FAILED if disk else EXIT_REFUSED


def _log_handler() -> logging.Handler:
    """In a terminal, a handler that leaves the progress line in its place."""
    if CONSOLE.is_terminal:
        rich = RichHandler(console=CONSOLE, show_path=False)
        rich.setFormatter(PlainFormatter())
        return rich
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _dry_run(config: Config) -> str:
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
        + shlex.join(_server_command(config, candidates(config.inference.address)[0])),
    ]
    return to_toml(config) + "\n# would start:\n" + "\n".join(f"# {line}" for line in lines)


def _server_command(config: Config, endpoint: str, key_files: Sequence[int] = ()) -> list[str]:
    return server_command(config.local, endpoint, key_files, config.module_folders)


def _spaces(config: Config, loaded: Checkpoint | None) -> Spaces:
    """The environment's spaces; with a checkpoint, its own if they are no others.

    What was learned fits the scale of observations that was in use then.
    """
    spaces = describe(config)
    kept = loaded.state.get("spaces") if loaded else None
    trained = Spaces.from_map(kept) if kept else spaces
    return trained if trained == spaces else spaces


def _train(config: Config, signals: Signals, lock: RunLock) -> int:
    run_dir = Path(config.run_dir)
    check_entries(run_dir)
    loaded = find_checkpoint(config)
    count = server_count(config)
    room = connections_within(raise_limit(count))
    if room < config.inference.max_envs:
        log.warning("at most %d environment servers can connect, by `ulimit -n`", room)
    run = _assemble(config, loaded)
    run.lock = lock
    prepare_folder(config, loaded)
    _write_config(config, run_dir)
    lock.accept()
    log.info("listening on %s, run in %s", run.inference.endpoint, run_dir)
    if config.note:
        log.info("%s", config.note)
    authentication = run.inference.authentication
    key_files = hand_over(authentication) if authentication else ()
    command = _server_command(config, run.inference.endpoint, key_files)
    spare_collector()
    signals.began()
    servers = LocalServers(command, count, run_dir / "envservers.log", key_files)
    try:
        _supervise(run, signals, servers)
    finally:
        servers.stop(timeout_s=5.0)
    # A request that comes once all is done asks for nothing that would be left to do.
    return EXIT_DONE if run.learner.complete else signals.exit_code


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
        {"spaces": spaces.to_map(), "environment": environment_of(config), **origin_of(config)},
        kept.save if kept is not None else None, lambda: run.hold_folder(), inference.server_of,
    )  # fmt: skip
    if loaded is not None:
        restore(learner, loaded, config)
        if kept is not None and loaded.path is not None:
            _load_replay(kept, loaded.path)
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
    with contextlib.suppress(OSError):
        run.hold_folder()
    writer = Writer(Path(config.run_dir), run.env_frames())
    display = Display(config.total_env_frames, run.env_frames())
    beginning = Beginning(config, run.inference.endpoint, server_count(config), tell)

    def farewell() -> str:
        if run.learner.complete:
            return "the training is complete"
        return "the learner was stopped" if signals.asked else "the learner failed"

    def log_line(progress: Progress) -> None:
        line = window.close(progress, run.inference, run.learner, run.store)
        try:
            run.hold_folder()
            writer.write(line)
        except (RunTaken, OSError) as error:
            log.error("a line of metrics is lost: %s", error)
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
    next_look_s = 0.0
    try:
        while learning.is_alive() and not crew.stop.is_set() and not signals.asked:
            learning.join(_TICK_S)
            watchdog.check()
            servers.check(connected=run.inference.num_envs > 0)
            beginning.check(run.inference.num_envs, run.inference.env_steps)
            if time.monotonic() >= next_look_s:
                next_look_s = time.monotonic() + _LOOK_EVERY_S
                # What cannot be seen now may be seen later; until then nothing is saved.
                with contextlib.suppress(OSError):
                    run.hold_folder()
            if time.monotonic() >= next_line_s:
                next_line_s += config.log_interval_s
                log_line(run.progress())
        if signals.asked and not run.learner.complete:
            log.info("stopping; a checkpoint is being written")
    finally:
        try:
            crew.join(watchdog.check)
        finally:
            watchdog.close()
            log_line(_last_progress(run, window))
            display.close()
            writer.close()
    log.info("%s after %s frames", farewell(), f"{run.env_frames():,}")


def _last_progress(run: Run, window: Window) -> Progress:
    """As far as the checkpoint at the end: steps since then are played again by the next process.

    Where there is none, or lines have gone beyond it, as far as the run has come.
    """
    ended = run.learner.ended_at
    return ended if ended and ended.env_steps >= window.last.env_steps else run.progress()


if __name__ == "__main__":
    sys.exit(main())
