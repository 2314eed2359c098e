"""The parts of one run, how far it has come, and its hold on its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from pathlib import Path

from seed.config.loading import to_toml
from seed.config.schema import Config, ConfigError
from seed.inference.loop import Inference
from seed.learner.loop import Learner, Progress
from seed.run.lock import RunLock
from seed.store.unrolls import UnrollStore

log = logging.getLogger(__name__)


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
            write_config(self.config, Path(self.config.run_dir))
        except ConfigError as error:
            log.error("%s", error)


def write_config(config: Config, run_dir: Path) -> None:
    """Leaves `config.toml` in the run's folder; raises ConfigError where that cannot be."""
    # A later start from this file goes on with the run, whatever this one started from.
    text = to_toml(dataclasses.replace(config, resume="auto"))
    temporary = run_dir / ".config.toml.tmp"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # What somebody has put there may be a pipe, or a link to a file of theirs.
        temporary.unlink(missing_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(run_dir / "config.toml")
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(
            f"run_dir = {config.run_dir!r}: cannot be written ({error.strerror})"
        ) from error
