"""Trains Pong with Sample Factory's own Atari examples; runs in that library's Python.

    python -m tools.bench.peers.sample_factory {atari,envpool.atari} --experiment=NAME ...

takes what `python -m sf_examples.atari.train_atari` takes, or the example that steps with EnvPool.
Their settings are published with the library, `sf_examples/atari/atari_params.py` and
`sf_examples/envpool/atari/envpool_atari_params.py`.
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
_EXAMPLES = {
    "atari": "sf_examples.atari.train_atari",
    "envpool.atari": "sf_examples.envpool.atari.train_envpool_atari",
}

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
    example = importlib.import_module(_EXAMPLES[sys.argv[1]])
    example.register_atari_components()
    _, runner = make_runner(example.parse_atari_args(sys.argv[2:]))
    runner.register_observer(_Marks())
    runner.init()
    runner.run()


if __name__ == "__main__":
    main()
