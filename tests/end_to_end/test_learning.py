"""Real trainings; those that only a steady timing can judge are in turns elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import Start, Train
from tests.seeds import reached


@pytest.mark.parametrize(
    ("config", "goal", "overrides"),
    [("catch_vtrace", 0.95, ()),
     pytest.param("cartpole_vtrace", 475, (), marks=pytest.mark.slow),
     # R2D2 learns it in float32.
     pytest.param("memory_chain_vtrace", 0.9, ("--network.precision", "bfloat16"),
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_vtrace_learns(train: Train, config: str, goal: float, overrides: tuple[str, ...]) -> None:
    def best_return(seed: int) -> float:
        lines = train(f"configs/{config}.toml", "--seed", seed, *overrides, run=f"seed-{seed}",
                      goal=goal)  # fmt: skip
        return max(line["episode_return_mean"] or -1.0 for line in lines)

    reached(goal, best_return)


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
