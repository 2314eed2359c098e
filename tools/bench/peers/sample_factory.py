"""Trains Pong with Sample Factory's own Atari example; runs in that library's Python.

    python -m tools.bench.peers.sample_factory --experiment=NAME --train_dir=FOLDER ...

takes what `python -m sf_examples.atari.train_atari` takes. The example's settings are published
with the library, `sf_examples/atari/atari_params.py`.
"""
# mypy: disable-error-code="import-not-found, no-untyped-call", allow-subclassing-any

from __future__ import annotations

import ale_py.registration
import gymnasium
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.train import make_runner
from sf_examples.atari.train_atari import parse_atari_args, register_atari_components

from tools.bench.peers.marks import print_mark

_FRAMES_PER_STEP = 4

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
    register_atari_components()
    _, runner = make_runner(parse_atari_args())
    runner.register_observer(_Marks())
    runner.init()
    runner.run()


if __name__ == "__main__":
    main()
