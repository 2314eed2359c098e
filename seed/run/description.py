"""What observations and actions of an environment are, without ever running it in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import subprocess
from dataclasses import dataclass
from typing import Any

from seed.config.schema import Config
from seed.process.exit_codes import CommandError
from seed.process.module_folders import python_command
from seed.wire.spaces import SpaceSpec
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

_SILENT_S = 1.0


class UnusableEnvironment(CommandError):
    """An environment that cannot be trained in; its text says why, to whoever configured it."""


@dataclass(frozen=True)
class Spaces:
    """The forms of observations and actions on the wire, as a run's checkpoints keep them."""

    observation: SpaceSpec
    action: SpaceSpec

    def to_map(self) -> dict[str, Any]:
        """A form for JSON, read back by `from_map`."""
        return {"observation": self.observation.to_map(), "action": self.action.to_map()}

    @staticmethod
    def from_map(spaces: dict[str, Any]) -> Spaces:
        """Reads what `to_map` wrote."""
        return Spaces(
            SpaceSpec.from_map(spaces["observation"]), SpaceSpec.from_map(spaces["action"])
        )


def describe(config: Config) -> Spaces:
    """The spaces of the configured environment, from a process that makes one and ends with it.

    Nothing of the environment is left then, whatever it has started. Where this process ends
    meanwhile, the other one notices.

    Raises:
        UnusableEnvironment: where it cannot be made.
    """
    timeout_s = config.local.step_timeout_s
    question = {"environment": dataclasses.asdict(config.environment), "timeout_s": timeout_s}
    answer = _ask(
        python_command("envservers.describer", config.module_folders),
        json.dumps(question).encode() + b"\n",
        "making one environment to learn its spaces"
        + (f", for {timeout_s:g} s at most (local.step_timeout_s)" if timeout_s else ""),
    )
    if "error" in answer:
        words = "".join(f"\n    {printable(line)}" for line in answer.get("words", ()))
        raise UnusableEnvironment(printable(answer["error"]) + (words and f"; it printed:{words}"))
    return Spaces.from_map(answer)


def _ask(command: list[str], question: bytes, patience: str) -> dict[str, Any]:
    """What the program answers; after a moment of silence the log says `patience`."""
    try:
        # A process group of its own: Ctrl-C reaches this process, which says what is to be said.
        # One thread for numerical libraries, as environment servers have.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except OSError as error:
        raise UnusableEnvironment(
            f"environment: no process can be started to make one in ({error.strerror})"
        ) from None
    # However this block is left, the program's input ends, and then the program does.
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        # It may have come to its end already.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(question)
        if not select.select([process.stdout], [], [], _SILENT_S)[0]:
            log.info("%s", patience)
        text = process.stdout.read()
    if not text:
        raise UnusableEnvironment(
            f"environment: the process that was to make one ended (exit code {process.returncode})"
        )
    answer: dict[str, Any] = json.loads(text)
    return answer
