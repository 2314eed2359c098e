"""`seed-eval`: plays a run's checkpoint with the run's own preprocessing and network.

It is the training's acting side without a learner: the same store, forward pass and environment
servers, from the run's `config.toml`, so that nothing can differ from training by accident.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import statistics
import sys
import time
from pathlib import Path

from seed import __version__
from seed.config.checks import check
from seed.config.loading import from_tables, read_toml, search_module_folders
from seed.config.schema import Config, ConfigError
from seed.contract.loading import acting_part, load_algorithm, load_algorithm_config
from seed.device.names import resolve_device
from seed.inference.loop import EpisodeRecord, Inference
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError
from seed.process.exit_codes import EXIT_DONE, CommandError
from seed.process.logs import PlainFormatter
from seed.process.threads import ThreadGroup
from seed.run.build import make_inference, make_store
from seed.run.description import Spaces
from seed.run.local_servers import LocalServerError, LocalServers, server_command
from seed.run.plan import Plan, make_agent, plan_store
from seed.store.weights import WeightSlot
from seed.wire.errors import WireError
from seed.wire.terminal import printable

_TICK_S = 0.05
_EVALUATION_SEED = 2**31


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        episodes: Episodes played to their end.
        return_mean: Mean of their returns, as the environment gave the rewards.
        return_std: Standard deviation of the returns.
        return_min: Smallest return.
        return_max: Largest return.
        length_steps_mean: Mean length in steps.
        env_frames: Frames of training behind the checkpoint.
    """

    episodes: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    length_steps_mean: float
    env_frames: int


def main(argv: list[str] | None = None) -> int:
    """The `seed-eval` command; returns its exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    arguments = _parse(argv)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = evaluate(arguments.run, arguments.episodes, arguments.envs, arguments.greedy)
    except CommandError as error:
        print(f"seed-eval: {printable(str(error), lines=True)}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        print(
            f"return {result.return_mean:.2f} ± {result.return_std:.2f} "
            f"(from {result.return_min:g} to {result.return_max:g}) over {result.episodes} "
            f"episodes of {result.length_steps_mean:.0f} steps; "
            f"checkpoint of {result.env_frames:,} frames"
        )
    return EXIT_DONE


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="seed-eval",
        description="Plays a checkpoint of a run and prints its returns. What environments keep "
        "for themselves, the running means of normalizing wrappers say, is in no checkpoint and "
        "starts anew.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN",
        help="the run's folder, for its newest checkpoint, or one checkpoint in it",
    )  # fmt: skip
    parser.add_argument("--episodes", type=_positive, default=20, help="episodes (default: 20)")
    parser.add_argument(
        "--envs", type=_positive, default=8,
        help="environments that play at a time (default: 8, at most one per episode)",
    )  # fmt: skip
    parser.add_argument(
        "--greedy", action="store_true",
        help="take the policy's mode, or the action of the highest value, instead of acting as in "
        "training; of a policy that was trained by sampling it can be far worse",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def evaluate(path: Path, episodes: int, envs: int, greedy: bool) -> Result:
    """Plays episodes of the checkpoint at `path`, or of the newest one of the run there.

    Each environment plays the same number of episodes and only its first ones count, so that
    short episodes are not preferred to long ones.

    Raises:
        ConfigError: where `path` is not a run or its configuration does not fit.
        CheckpointError: where there is nothing to play.
        LocalServerError: where the environments cannot be run.
    """
    run_dir, loaded = _load(path)
    tables = read_toml(run_dir / "config.toml")
    search_module_folders(tables, None)
    config = _adapt(from_tables(tables, load_algorithm_config), min(envs, episodes))
    check(config)
    inference = _build(_plan(config, loaded), greedy)
    records = _play(config, inference, episodes)
    returns = [record.episode_return for record in records]
    return Result(
        episodes=len(returns),
        return_mean=statistics.fmean(returns),
        return_std=statistics.pstdev(returns),
        return_min=min(returns),
        return_max=max(returns),
        length_steps_mean=statistics.fmean(record.length_steps for record in records),
        env_frames=loaded.state["env_frames"],
    )


def _load(path: Path) -> tuple[Path, Checkpoint]:
    if (path / "config.toml").exists():
        loaded = checkpoint.load_newest(path / "checkpoints")
        if loaded is None:
            raise CheckpointError(f"{path}: no checkpoint yet")
        return path, loaded
    run_dir = path.parent.parent
    if not (run_dir / "config.toml").exists():
        raise ConfigError(f"{path}: expected the folder of a run or one of its checkpoints")
    return run_dir, checkpoint.load(path)


def _adapt(config: Config, envs: int) -> Config:
    """The run's configuration with one local server of `envs` environments on a free port."""
    return dataclasses.replace(
        config,
        local_envservers=1,
        inference=dataclasses.replace(
            config.inference,
            address="tcp://127.0.0.1:*",
            secret_key="",
            allowed_keys="",
            max_envs_per_key=0,
            max_envs=envs,
            max_batch=max(envs, config.inference.max_batch),
            min_batch=1,
            # The learner's side of the store, which nobody is at, gets nothing.
            evaluation_share=1.0,
        ),
        # Nothing is learned from: no rows are context.
        learner=dataclasses.replace(config.learner, burn_in=0),
        replay=dataclasses.replace(config.replay, burn_in=None),
        local=dataclasses.replace(config.local, envs_per_server=envs, groups_per_server=1),
    )


def _plan(config: Config, loaded: Checkpoint) -> Plan:
    """Acting with the checkpoint's weights, in evaluation environments only."""
    algorithm = load_algorithm(config.algorithm_name)
    try:
        spaces = Spaces.from_map(loaded.state["spaces"])
    except (KeyError, TypeError, WireError) as error:
        raise CheckpointError(f"{loaded.path}: spaces of another form ({error})") from None
    device = resolve_device(config.inference.device, "inference.device")
    agent = make_agent(algorithm, config, spaces, device)
    checkpoint.unpack_module(loaded.tensors, "agent", agent)
    layout = plan_store(algorithm, config, spaces, agent, device)
    return Plan(
        config, loaded, algorithm, spaces, agent, device, device, device, layout, server_count=1,
        # In training, the second number counts steps: these games are other ones.
        seed=(config.seed, _EVALUATION_SEED),
    )  # fmt: skip


def _build(plan: Plan, greedy: bool) -> Inference:
    assert plan.loaded is not None
    slot = WeightSlot()
    acting = acting_part(plan.algorithm, plan.agent)
    slot.publish(plan.loaded.state["learner_steps"], acting)
    store = make_store(plan.layout, plan.store_device, plan.learning_device)
    return make_inference(plan, store, acting, slot, greedy=greedy)


def _play(config: Config, inference: Inference, episodes: int) -> list[EpisodeRecord]:
    """The first episodes of every environment, as equally many of each as can be."""
    envs = config.local.envs_per_server
    quotas = {env: episodes // envs + (env < episodes % envs) for env in range(envs)}
    played: list[EpisodeRecord] = []
    threads = ThreadGroup()
    farewell = "the evaluation is over"
    threads.start("inference", lambda: inference.run(threads.stop, lambda: farewell))
    command = server_command(
        config.local, inference.endpoint, module_folders=config.module_folders
    )
    servers = LocalServers(command, 1)
    try:
        while len(played) < episodes and not threads.stop.is_set():
            servers.check(connected=inference.num_envs > 0)
            if inference.faults.num_quarantined:
                # Its share of the episodes will never be played.
                raise LocalServerError("an environment has failed too often; the log says why")
            time.sleep(_TICK_S)
            for _ in range(inference.records.qsize()):
                record = inference.records.get()
                if isinstance(record, EpisodeRecord) and quotas[record.env_id] > 0:
                    quotas[record.env_id] -= 1
                    played.append(record)
    finally:
        try:
            threads.join()
        finally:
            servers.stop(timeout_s=5.0)
    return played


if __name__ == "__main__":
    sys.exit(main())
