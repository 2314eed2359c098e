"""Where a run starts: at its first frame, or where a checkpoint is."""

from __future__ import annotations

import logging
from pathlib import Path

from seed.config.schema import Config, ConfigError
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError
from seed.learner.loop import Learner
from seed.run.folder import set_aside
from seed.run.provenance import describe_changes

log = logging.getLogger(__name__)


def find_checkpoint(config: Config) -> Checkpoint | None:
    """The checkpoint to go on from, by `resume`; None for a start at the first frame.

    Raises:
        ConfigError: where it does not fit the configuration.
        CheckpointError: where there is none that can be used, though there should be.
    """
    folder = _own_checkpoints(config)
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


def _own_checkpoints(config: Config) -> Path:
    return Path(config.run_dir) / "checkpoints"


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


def environment_of(config: Config) -> str:
    """What a run is about, as its checkpoints say it."""
    return f"{config.environment.kind} {config.environment.id}"


def _check_environment(config: Config, loaded: Checkpoint) -> None:
    """Refuses to go on with the training of another environment, whose spaces may be the same."""
    trained = loaded.state.get("environment") or environment_of(config)
    if trained != environment_of(config):
        raise ConfigError(
            f"environment: what {loaded.path} holds is a run of {trained!r}, not of "
            f"{environment_of(config)!r}; choose another run_dir, or another checkpoint to resume"
        )


def restore(learner: Learner, loaded: Checkpoint, config: Config) -> None:
    """Goes on from a checkpoint, and says where that is and what is different now.

    Raises:
        CheckpointError: where it does not fit, with the settings that differ.
    """
    changes = describe_changes(loaded.state, config)
    try:
        learner.restore(loaded)
    except CheckpointError as error:
        remedy = "set them back, or choose another run_dir"
        raise CheckpointError(
            f"{loaded.path}: {error}; {f'{changes}; {remedy}' if changes else remedy}"
        ) from None
    log.info("going on from %d frames, of %s", loaded.state["env_frames"], loaded.path)
    if changes:
        log.info("%s", changes)


def prepare_folder(config: Config, loaded: Checkpoint | None) -> None:
    """Sets aside what the run's folder has from beyond the start, and says so.

    Raises:
        ConfigError: where that cannot be done.
    """
    if loaded is None:
        log.info("starting from frame 0")
    own = loaded is not None and loaded.path is not None and _is_own(loaded.path, config)
    frames = loaded.state["env_frames"] if loaded is not None and own else None
    if said := set_aside(Path(config.run_dir), frames):
        log.warning("%s", said)


def _is_own(path: Path, config: Config) -> bool:
    return path.parent.resolve() == _own_checkpoints(config).resolve()
