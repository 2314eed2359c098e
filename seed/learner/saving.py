"""When a checkpoint of the run is due, what it holds, and what it means that one fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seed.config.schema import Config
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, SaveFailed, SaveReplay
from seed.learner.divergence import UpdateGuard
from seed.process.phases import Phases

log = logging.getLogger(__name__)

# A run that is killed before its first checkpoint begins anew: that one comes early.
_FIRST_CHECKPOINT_S = 30.0


class Saver:
    """Saves the learner's networks and optimizer; owned by the learner's thread.

    Other threads may read `failed` and write `newest`.

    Attributes:
        folder: Where the run's checkpoints are.
        newest: The last one written, or the one that the run went on from; None where there is
            none any more: the next comes as early as the first.
        failed: Checkpoints that could not be written.
    """

    def __init__(
        self,
        config: Config,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        guard: UpdateGuard,
        phases: Phases,
        save_replay: SaveReplay | None,
        hold: Callable[[], bool],
    ) -> None:
        """The first one is due soon from now on.

        Args:
            config: The run.
            modules: The networks, by name.
            optimizer: Of the trained one.
            guard: Knows whether the networks are whole.
            phases: Of the thread that saves.
            save_replay: Writes the replay into a folder of every checkpoint.
            hold: Called before each; returns whether the run's folder had to be made anew. Raises
                where it is no longer this process's own, OSError where it cannot tell.
        """
        self.folder = Path(config.run_dir) / "checkpoints"
        self.newest: Path | None = None
        self.failed = 0
        self._config = config
        self._modules = modules
        self._optimizer = optimizer
        self._guard = guard
        self._phases = phases
        self._save_replay = save_replay
        self._hold = hold
        self._saved_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed since the last one."""
        return time.monotonic() >= self._saved_s + self._interval_s

    @property
    def _interval_s(self) -> float:
        interval_s = self._config.checkpoint_interval_s
        return min(interval_s, _FIRST_CHECKPOINT_S) if self.newest is None else interval_s

    def try_to_save(self, state: dict[str, Any]) -> None:
        """Saves; a checkpoint that cannot be written is told of, and learning goes on."""
        interval_s = self._interval_s
        try:
            self.save(state)
        except SaveFailed as error:
            log.error("%s. Going on; the next one is due in %g s", error, interval_s)

    def save(self, state: dict[str, Any]) -> None:
        """Writes a checkpoint of this moment.

        Args:
            state: All of it that is no tensor, with `env_frames` and `learner_steps`.

        Raises:
            Diverged: where the weights are broken: those are never saved.
            SaveFailed: where it could not be written.
        """
        self._phases.enter("checkpoint")
        self._guard.check(self._modules, self._optimizer)
        try:
            self._hold_folder()
            self.newest = self._write(state)
        except SaveFailed as error:
            self.failed += 1
            good = f"the newest is {self.newest}" if self.newest else "there is none yet"
            raise SaveFailed(f"{error}; {good}") from error
        finally:
            self._saved_s = time.monotonic()

    def _hold_folder(self) -> None:
        try:
            made_anew = self._hold()
        except OSError as error:
            raise SaveFailed(
                f"{self.folder}: nothing is written, as the run's lock cannot be seen or had "
                f"({error})"
            ) from error
        if made_anew:
            self.newest = None

    def _write(self, state: dict[str, Any]) -> Path:
        return checkpoint.save(
            self.folder,
            checkpoint.name_of(state["env_frames"], state["learner_steps"]),
            Checkpoint(checkpoint.pack(self._modules, self._optimizer), state),
            keep=self._config.keep_checkpoints,
            save_replay=self._save_replay,
            sign=self._phases.heartbeat,
        )
