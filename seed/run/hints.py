"""Lines that say what a person can do next: give a run environments, go on with it, see it play."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from seed.config.schema import Config

log = logging.getLogger(__name__)

# How long local environment servers take to connect on a busy machine, and some more.
_NOBODY_S = 20.0
_EVERYWHERE = ("0.0.0.0", "*", "[::]")


class Beginning:
    """Says what a run waits for until its first rows come. Owned by the main thread."""

    def __init__(
        self, config: Config, endpoint: str, local_servers: int, tell: Callable[[str], None]
    ) -> None:
        """Nothing is said yet.

        Args:
            config: The run.
            endpoint: Where the learner listens.
            local_servers: Environment servers that have been started.
            tell: Gets what has a command in it.
        """
        self._tell = tell
        self._how = how_to_connect(config, endpoint)
        self._due_s: float | None = time.monotonic() + (_NOBODY_S if local_servers else 0.0)
        self._over = False

    def check(self, num_envs: int, env_steps: int) -> None:
        """To be called several times a second, with what is connected and what has come."""
        if self._over:
            return
        if num_envs or env_steps:
            self._over = True
            if not env_steps:
                log.info("making environments")
        elif self._due_s is not None and time.monotonic() >= self._due_s:
            self._due_s = None
            self._tell(f"no environment server is connected; one is started with: {self._how}")


def how_to_connect(config: Config, endpoint: str) -> str:
    """The command that starts an environment server for a learner that listens there."""
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host in _EVERYWHERE:
        endpoint = f"tcp://{socket.gethostname()}:{port}"
    words = ["seed-envserver", "--connect", endpoint, "--num-envs",
             str(config.local.envs_per_server)]  # fmt: skip
    if config.inference.secret_key:
        words += ["--key", "WORKER.key", "--learner-key", "LEARNER.pub"]
    return shlex.join(words)


def what_comes_next(config: Config, arguments: Sequence[str], *, complete: bool) -> list[str]:
    """Lines with the commands that are of use once a learner has ended.

    Args:
        config: The run, with checkpoints in its folder.
        arguments: The learner's command line, without its first word.
        complete: Whether there is nothing to go on with.
    """
    run_dir = _shortest(Path(config.run_dir))
    if config.resume != "auto":
        # The same command would be refused, as there is a newer checkpoint now.
        arguments = [str(run_dir / "config.toml")]
    going_on = f"to go on: {shlex.join([_program('seed-learner'), *arguments])}"
    playing = f"to see it play: {shlex.join([_program('seed-eval'), str(run_dir)])}"
    return [playing] if complete else [going_on, playing]


def _program(name: str) -> str:
    """A command of this installation, as this shell would find it."""
    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    if called.name != "seed-learner" or (found and Path(found).resolve() == called.resolve()):
        return name
    return str(called.with_name(name))


def _shortest(path: Path) -> Path:
    """The same seen from the working directory, where it is below it."""
    try:
        return path.relative_to(os.getcwd())
    except (ValueError, OSError):
        return path
