"""Trainings in one thread, reproducible: what must learn does, and fails without what it needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.in_turns import train
from tests.seeds import reached, stayed_below

# Weights are up to 20 updates late, at a learning rate at which that matters.
LATE_WEIGHTS = (
    "--learner.publish-every-updates", 20, "--optimizer.learning-rate", 5e-3,
    "--local.groups-per-server", 1, "--total-env-frames", 300_000,
)  # fmt: skip


MEMORY_CHAIN = "configs/memory_chain_vtrace.toml"
# No unroll of 16 rows holds both the cue and the question, 20 rows later.
LONG_CHAIN = ("configs/memory_chain_r2d2.toml", "--environment.kwargs.length", 20)


def test_the_same_seed_is_the_same_training(tmp_path: Path) -> None:
    def train_seed(seed: int, run: str) -> tuple[float, int, float]:
        short = ("--total-env-frames", 4_000, "--seed", seed)
        trained = train(tmp_path / run, "configs/catch_vtrace.toml", *short)
        # The last bits of the scalars depend on how many threads MKL has by now.
        return trained.return_mean, trained.env_steps, trained.policy_lag_mean

    first, again, other = train_seed(1, "first"), train_seed(1, "again"), train_seed(2, "other")
    assert first == again
    assert first != other


def test_cartpole_with_late_weights(tmp_path: Path) -> None:
    def train_seed(seed: int) -> float:
        config, run_dir = "configs/cartpole_vtrace.toml", tmp_path / str(seed)
        trained = train(run_dir, config, *LATE_WEIGHTS, "--seed", seed, goal=400)
        assert 8 < trained.policy_lag_mean < 12
        return trained.return_mean

    reached(400, train_seed)


def test_cartpole_with_late_weights_fails_uncorrected(tmp_path: Path) -> None:
    """Uncorrected, the policy's own actions become ever surer: it falls after 9 steps."""

    def train_seed(seed: int) -> float:
        config, run_dir = "tests/outside/cartpole_uncorrected.toml", tmp_path / str(seed)
        trained = train(run_dir, config, *LATE_WEIGHTS, "--seed", seed)
        assert 8 < trained.policy_lag_mean < 12
        return trained.return_mean

    stayed_below(100, train_seed)


def test_an_algorithm_from_outside_learns_catch(tmp_path: Path) -> None:
    def train_seed(seed: int) -> float:
        config, run_dir = "tests/outside/reinforce.toml", tmp_path / str(seed)
        discount = ("--algorithm.discount", 0.98)
        return train(run_dir, config, *discount, "--seed", seed, goal=0.6).return_mean

    reached(0.6, train_seed)


def test_the_algorithm_on_the_page_for_authors_learns_catch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands there, module and configuration, each in the file that the page names."""
    page = Path("docs/writing_an_algorithm.md").read_text()
    for kind, name in (("python", "my_actor_critic.py"), ("toml", "my_catch.toml")):
        assert f"`{name}`" in page
        block = re.search(rf"```{kind}\n(.*?)```", page, re.S)
        assert block is not None
        (tmp_path / name).write_text(block[1])
    monkeypatch.setattr(sys, "path", sys.path[:])

    def train_seed(seed: int) -> float:
        config, run_dir = str(tmp_path / "my_catch.toml"), tmp_path / str(seed)
        return train(run_dir, config, "--seed", seed, goal=0.6).return_mean

    reached(0.6, train_seed)


@pytest.mark.parametrize(("ending", "value"), [("truncates", 10.0), ("no-truncates", 1.0)])
def test_truncation_bootstraps_and_termination_does_not(
    tmp_path: Path, ending: str, value: float
) -> None:
    """Reward 1 a step and gamma 0.9: worth 1 / (1 - 0.9) where only cut off, 1 where it ends."""
    trained = train(tmp_path, "tests/outside/endless.toml", f"--environment.kwargs.{ending}")
    assert trained.scalars["value_mean"] == pytest.approx(value, rel=0.01)


@pytest.mark.slow
def test_memory_chain_fails_without_memory(tmp_path: Path) -> None:
    def train_seed(seed: int) -> float:
        without = ("--network.lstm-size", 0, "--seed", seed)
        return train(tmp_path / str(seed), MEMORY_CHAIN, *without).return_mean

    stayed_below(0.5, train_seed)


@pytest.mark.slow
def test_chain_longer_than_the_unroll(tmp_path: Path) -> None:
    def train_seed(seed: int) -> float:
        return train(tmp_path / str(seed), *LONG_CHAIN, "--seed", seed, goal=0.9).return_mean

    reached(0.9, train_seed)


@pytest.mark.slow
def test_chain_longer_than_the_unroll_fails_without_stored_state(tmp_path: Path) -> None:
    """A seed may be lucky and keep the cue in its own actions, each of which the next row shows."""

    def train_seed(seed: int) -> float:
        without = ("--algorithm.no-stored-state", "--learner.burn-in", 0, "--seed", seed)
        return train(tmp_path / str(seed), *LONG_CHAIN, *without).return_mean

    stayed_below(0.5, train_seed)
