"""seed-learner that writes every episode to the file of its first argument, as inference has it."""

from __future__ import annotations

import os
import sys

# As users start it.
os.environ.pop("OMP_NUM_THREADS", None)

from seed.inference import loop
from seed.run.main import main

_EPISODE_RECORD = loop.EpisodeRecord


def record(path: str) -> None:
    """From here on, a line for each episode: its env_id and its return."""
    file = open(path, "w", buffering=1)  # noqa: SIM115 - open until the process ends

    def recorded(env_id: int, episode_return: float, *rest: object) -> object:
        file.write(f"{env_id} {episode_return}\n")
        return _EPISODE_RECORD(env_id, episode_return, *rest)  # type: ignore[arg-type]

    loop.EpisodeRecord = recorded  # type: ignore[assignment,misc]


if __name__ == "__main__":
    record(sys.argv.pop(1))
    sys.exit(main())
