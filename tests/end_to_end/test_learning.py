"""Real trainings through the real command: what must learn does, what must not does not."""

from __future__ import annotations

from typing import Any

from tests.end_to_end.commands import Train
from tests.end_to_end.learning import reached


def _final_return(lines: list[dict[str, Any]]) -> float:
    """Mean return of the run's last 100 episodes."""
    value: float = lines[-1]["episode_return_mean"]
    return value


def _reached(train: Train, goal: float, config: str, *overrides: object) -> None:
    def train_seed(seed: int) -> float:
        return _final_return(train(config, "--seed", seed, *overrides, run=f"seed-{seed}"))

    reached(goal, train_seed)


def test_catch(train: Train) -> None:
    _reached(train, 0.95, "configs/catch_vtrace.toml")


def test_cartpole(train: Train) -> None:
    _reached(train, 475, "configs/cartpole_vtrace.toml")


LATE_WEIGHTS = ("--learner.publish-every-updates", 40)


def test_cartpole_with_late_weights(train: Train) -> None:
    _reached(train, 400, "configs/cartpole_vtrace.toml", *LATE_WEIGHTS)


def test_cartpole_with_late_weights_fails_uncorrected(train: Train) -> None:
    for seed in (1, 2):
        lines = train(
            "tests/outside/cartpole_uncorrected.toml", "--seed", seed, *LATE_WEIGHTS,
            "--total-env-frames", 300_000, run=f"seed-{seed}",
        )  # fmt: skip
        assert _final_return(lines) < 100


def test_memory_chain_in_bfloat16(train: Train) -> None:
    """With V-trace; R2D2 learns it in float32 (test_learning_r2d2.py)."""
    _reached(train, 0.9, "configs/memory_chain_vtrace.toml", "--network.precision", "bfloat16")


def test_memory_chain_fails_without_memory(train: Train) -> None:
    for seed in (1, 2):
        lines = train(
            "configs/memory_chain_vtrace.toml", "--network.lstm-size", 0, "--seed", seed,
            run=f"seed-{seed}",
        )  # fmt: skip
        assert abs(_final_return(lines)) < 0.5
