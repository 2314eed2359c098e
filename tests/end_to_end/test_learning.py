"""Real trainings with V-trace; those that only a steady timing can judge are in turns elsewhere."""

from __future__ import annotations

import pytest

from tests.end_to_end.commands import Train
from tests.seeds import reached


def _reached(train: Train, goal: float, config: str, *overrides: object) -> None:
    def train_seed(seed: int) -> float:
        lines = train(config, "--seed", seed, *overrides, run=f"seed-{seed}", goal=goal)
        best: float = max(line["episode_return_mean"] or -1.0 for line in lines)
        return best

    reached(goal, train_seed)


def test_catch(train: Train) -> None:
    _reached(train, 0.95, "configs/catch_vtrace.toml")


@pytest.mark.slow
def test_cartpole(train: Train) -> None:
    _reached(train, 475, "configs/cartpole_vtrace.toml")


@pytest.mark.slow
def test_memory_chain_in_bfloat16(train: Train) -> None:
    """With V-trace; R2D2 learns it in float32 (test_learning_r2d2.py)."""
    _reached(train, 0.9, "configs/memory_chain_vtrace.toml", "--network.precision", "bfloat16")
