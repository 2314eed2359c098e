"""What the commands of the central side call: says clearly when that side is not installed."""

from __future__ import annotations

import contextlib
import os
import sys

from seed.module_folders import search, working_folder
from seed.signals import Signals

# Modules that `pip install seed-rl` leaves out and `pip install "seed-rl[learner]"` brings.
_LEARNER_MODULES = ("torch", "tyro", "rich", "tensorboard", "safetensors", "tomli_w")
_EXIT_INTERRUPTED = 130


def learner() -> int:
    """Runs `seed-learner`; returns its exit code."""
    # Before torch is imported, which takes seconds.
    signals = Signals()
    search(working_folder())
    _keep_stdout_for_results()
    try:
        from seed.main import main

        return main(signals=signals)
    except ModuleNotFoundError as error:
        return _refuse("seed-learner", error)


def evaluation() -> int:
    """Runs `seed-eval`; returns its exit code."""
    search(working_folder())
    _keep_stdout_for_results()
    try:
        from seed.evaluate import main

        return main()
    except ModuleNotFoundError as error:
        return _refuse("seed-eval", error)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _keep_stdout_for_results() -> None:
    """Leaves standard output to what this process prints as its result, and to nothing else.

    What C code writes there, and whatever this process starts, gets to standard error.
    """
    # Where one of them is closed there is nothing to keep apart.
    with contextlib.suppress(OSError, AttributeError):
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        os.fstat(2)
        results = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = open(results, "w", encoding=encoding, errors=errors)  # noqa: SIM115


def _refuse(command: str, error: ModuleNotFoundError) -> int:
    if error.name not in _LEARNER_MODULES:
        raise error
    print(
        f"{command}: {error.name} is not installed; this machine has the environment servers' "
        'side only. Install the central side with: pip install "seed-rl[learner]"',
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(learner())
