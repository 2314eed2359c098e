"""Trains Pong with Sample Factory's own Atari examples; runs in that library's Python.

    python -m tools.bench.peers.sample_factory {atari,envpool.atari} EPOCHS FOLDER [OPTION ...]

runs `python -m sf_examples.atari.train_atari`, or the example that steps with EnvPool; there may be
more options of theirs. Their settings are published with the library, but for the epochs:
`sf_examples/atari/atari_params.py`, `sf_examples/envpool/atari/envpool_atari_params.py`. There are
as many environments as published.
"""
# mypy: disable-error-code="import-not-found, no-untyped-call", allow-subclassing-any

from __future__ import annotations

import importlib
import sys

import ale_py.registration
import gymnasium
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.train import make_runner

from tools.bench.peers.marks import print_mark

_FRAMES_PER_STEP = 4
_OPTIONS = ("--algo=APPO", "--env=atari_pong", "--experiment=pong", "--device=cpu")
_EXAMPLES = {
    # What the library advises for few cores: a worker per core, two groups of environments each.
    "atari": (
        "sf_examples.atari.train_atari", "--num_workers=2", "--num_envs_per_worker=4",
        "--worker_num_splits=2",
    ),
    # One worker instead of the four published: EnvPool has threads of its own.
    "envpool.atari": ("sf_examples.envpool.atari.train_envpool_atari", "--num_workers=1"),
}  # fmt: skip

# The library needs a Gymnasium for which ale-py no longer registers its games by itself. Also in
# the processes that it starts, which import this module.
if "PongNoFrameskip-v4" not in gymnasium.registry:
    ale_py.registration.register_v0_v4_envs()


class _Marks(AlgoObserver):
    """Says how far the training is, after each update."""

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        print_mark(sum(runner.env_steps.values()) // _FRAMES_PER_STEP)


def main() -> None:
    """Trains until it is stopped."""
    name, epochs, folder, *more = sys.argv[1:]
    module, *options = _EXAMPLES[name]
    example = importlib.import_module(module)
    example.register_atari_components()
    run = (f"--num_epochs={epochs}", f"--train_dir={folder}")
    words = [*_OPTIONS, *options, *run, *more]
    _, runner = make_runner(example.parse_atari_args(words))
    runner.register_observer(_Marks())
    runner.init()
    runner.run()


if __name__ == "__main__":
    main()
