"""Real trainings with R2D2 through the real commands, judged by how the last checkpoint plays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import Start, Train
from tests.seeds import reached


class Trained:
    """Trains and then plays, each seed in a run of its own."""

    def __init__(self, train: Train, start: Start, folder: Path) -> None:
        self.train = train
        self.start = start
        self.folder = folder

    def plays(self, seed: int, config: str, goal: float, episodes: int) -> float:
        """Mean return of the checkpoint that this training leaves, at the goal or at its end."""
        run = f"seed-{seed}"
        self.train(
            config, "--seed", seed, run=run, figure="evaluation_return_mean", goal=goal
        )
        evaluation = self.start("seed-eval", self.folder / run, "--episodes", episodes, "--json")
        assert evaluation.wait() == 0, evaluation.text
        value: float = json.loads(evaluation.text.splitlines()[-1])["return_mean"]
        return value


@pytest.fixture
def trained(train: Train, start: Start, tmp_path: Path) -> Trained:
    return Trained(train, start, tmp_path)


@pytest.mark.slow
def test_cartpole(trained: Trained) -> None:
    reached(400, lambda seed: trained.plays(seed, "configs/cartpole_r2d2.toml", 450, episodes=20))


def test_memory_chain(trained: Trained) -> None:
    """Its evaluation environments explore too little to miss the goal."""
    config = "configs/memory_chain_r2d2.toml"
    reached(0.9, lambda seed: trained.plays(seed, config, 0.97, episodes=100))
