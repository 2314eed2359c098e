"""Real trainings; those that only a steady timing can judge are in turns elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.commands import Start, Train
from tests.seeds import reached, stayed_below


def best_return(
    train: Train, goal: float, config: str, *overrides: object
) -> Callable[[int], float]:
    """The best mean return of the training with a seed, which ends at the goal."""

    def train_seed(seed: int) -> float:
        lines = train(f"configs/{config}.toml", "--seed", seed, *overrides, run=f"seed-{seed}",
                      goal=goal)  # fmt: skip
        best: float = max(line["episode_return_mean"] or -1.0 for line in lines)
        return best

    return train_seed


@pytest.mark.parametrize(
    ("config", "goal", "overrides"),
    [("catch_vtrace", 0.95, ()),
     ("catch_a2c", 0.95, ()),
     pytest.param("cartpole_vtrace", 475, (), marks=pytest.mark.slow),
     pytest.param("cartpole_a2c", 475, (), marks=pytest.mark.slow),
     # R2D2 learns it in float32.
     pytest.param("memory_chain_vtrace", 0.9, ("--network.precision", "bfloat16"),
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_actor_critics_learn(
    train: Train, config: str, goal: float, overrides: tuple[str, ...]
) -> None:
    reached(goal, best_return(train, goal, config, *overrides))


@pytest.mark.slow
def test_catch_is_not_learned_without_foresight(train: Train) -> None:
    """Only the last of an episode's actions is learned from, and the ball is mostly missed by then.

    Over 10 seeds its best mean was .40, where .95 and more is reached with foresight.
    """
    stayed_below(0.475, best_return(train, 0.95, "catch_a2c", "--algorithm.discount", 0))


@pytest.mark.parametrize(
    ("config", "goal", "trained_to", "episodes"),
    [pytest.param("cartpole_r2d2", 400, 450, 20, marks=pytest.mark.slow),
     # Its evaluation environments explore too little to miss the goal.
     ("memory_chain_r2d2", 0.9, 0.97, 100)],
)  # fmt: skip
def test_what_r2d2_has_learned_plays(
    train: Train, start: Start, tmp_path: Path, config: str, goal: float, trained_to: float,
    episodes: int,
) -> None:  # fmt: skip
    """Judged by the checkpoint that is left at the goal, or at the end of the training."""

    def plays(seed: int) -> float:
        run = f"seed-{seed}"
        train(f"configs/{config}.toml", "--seed", seed, run=run, figure="evaluation_return_mean",
              goal=trained_to)  # fmt: skip
        evaluation = start("seed-eval", tmp_path / run, "--episodes", episodes, "--json")
        assert evaluation.wait() == 0, evaluation.text
        return float(json.loads(evaluation.text.splitlines()[-1])["return_mean"])

    reached(goal, plays)
