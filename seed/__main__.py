"""What the commands of the central side call: says clearly when that side is not installed."""

from __future__ import annotations

import sys

from seed import __version__
from seed.process.exit_codes import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REFUSED
from seed.process.module_folders import search, working_folder
from seed.process.signals import Signals
from seed.wire.terminal import keep_stdout_for_results, shield_output

# Modules that an installation without the extra "learner" leaves out.
_LEARNER_MODULES = ("torch", "tyro", "rich", "tensorboard", "safetensors", "tomli_w")


def learner() -> int:
    """Runs `seed-learner`; returns its exit code."""
    # Before torch is imported, which takes seconds.
    signals = Signals()
    shield_output()
    search(working_folder())
    keep_stdout_for_results()
    try:
        if _prints_version("seed-learner"):
            return EXIT_DONE
        from seed.run.main import main

        return main(signals=signals)
    except ModuleNotFoundError as error:
        return _refuse("seed-learner", error)
    finally:
        signals.over()


def evaluation() -> int:
    """Runs `seed-eval`; returns its exit code."""
    shield_output()
    search(working_folder())
    keep_stdout_for_results()
    try:
        if _prints_version("seed-eval"):
            return EXIT_DONE
        from seed.run.evaluate import main

        return main()
    except ModuleNotFoundError as error:
        return _refuse("seed-eval", error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _prints_version(command: str) -> bool:
    """Whether that is all that was asked for; answered without what takes seconds to import."""
    asked = sys.argv[1:] == ["--version"]
    if asked:
        print(command, __version__)
    return asked


def _refuse(command: str, error: ModuleNotFoundError) -> int:
    if error.name not in _LEARNER_MODULES:
        raise error
    print(
        f"{command}: {error.name} is not installed; this machine has the environment servers' "
        'side only. Install the central side with: pip install ".[learner]" in a checkout, or '
        'pip install "seed-rl[learner]" from a package index',
        file=sys.stderr,
    )
    return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(learner())
