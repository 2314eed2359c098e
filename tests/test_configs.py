"""Every configuration that ships can be run, and means what its comments say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from envservers.environments.atari import AtariOptions
from envservers.environments.factory import describe
from seed.config.checks import check, check_source
from seed.config.loading import from_tables, read_toml
from seed.config.schema import AtariConfig, Config
from seed.contract.loading import load_algorithm, load_algorithm_config
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store
from seed.store.fleet import evaluation_environments

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def _load(path: Path) -> Config:
    config = from_tables(read_toml(path), load_algorithm_config)
    check(config)
    check_source(config, load_algorithm(config.algorithm_name).DATA_SOURCE)
    return config


def _load_by_name(name: str) -> Config:
    return _load(next(path for path in FILES if path.stem == name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_whole_and_its_environment_exists(path: Path) -> None:
    config = _load(path)
    assert config.run_dir == f"runs/{path.stem}"
    assert "\n" not in config.note
    observation, _ = describe(dataclasses.asdict(config.environment))
    assert observation.nbytes > 0


@pytest.mark.parametrize(
    ("name", "frame_stack"),
    [("pong_vtrace", 4), ("breakout_vtrace", 4), ("pong_r2d2", 2), ("atari57_r2d2", 4)],
)
def test_atari_preprocessing_is_the_standard_one(name: str, frame_stack: int) -> None:
    """A lost action repeat, of all things, kept the original from learning Pong."""
    config = _load_by_name(name)
    atari = config.environment.atari
    assert atari.action_repeat == config.environment.frames_per_env_step == 4
    assert (atari.screen_size, atari.grayscale, atari.max_pool) == (84, True, True)
    assert (atari.noop_max, atari.max_frames_per_episode) == (30, 108_000)
    assert config.network.frame_stack == frame_stack


# Whoever sees a flat curve for ten minutes takes it for a fault.
@pytest.mark.parametrize("name", ["pong_vtrace", "pong_r2d2"])
def test_pong_says_what_is_normal(name: str) -> None:
    assert "a random policy gets about -20.7" in _load_by_name(name).note


@pytest.mark.parametrize(
    ("name", "limit"),
    [("pong_vtrace", 1.0), ("pong_gymnasium_vtrace", 1.0), ("breakout_vtrace", 1.0),
     ("cartpole_vtrace", 0.0), ("catch_vtrace", 0.0), ("memory_chain_vtrace", 0.0)],
)  # fmt: skip
def test_rewards_are_clipped_on_atari_alone(name: str, limit: float) -> None:
    assert _load_by_name(name).algorithm.reward_clip == limit


def test_atari57_r2d2_is_the_published_run() -> None:
    """The table of SEED's paper (Espeholt et al. 2020, appendix), not the code's defaults."""
    config = _load_by_name("atari57_r2d2")
    atari, algorithm = config.environment.atari, config.algorithm
    assert config.total_env_frames == 10**10
    assert (config.learner.unroll_length, config.learner.burn_in) == (80, 40)
    assert (config.learner.batch_size, config.replay.ratio) == (64, 0.75)
    assert config.replay.capacity_rows == 100_000 * 80
    assert config.replay.min_rows == 5_000 * 80
    assert (config.replay.priority_exponent, config.replay.importance_exponent) == (0.9, 0.6)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.learning_rate, optimizer.epsilon) == ("adam", 1e-4, 1e-3)
    assert (optimizer.final_learning_rate_fraction, optimizer.clip_norm) == (1.0, 80.0)
    assert (algorithm.n_steps, algorithm.discount) == (5, 0.997)
    assert (algorithm.target_period_updates, algorithm.rescale_epsilon) == (2_500, 1e-3)
    assert (algorithm.max_priority_share, algorithm.dueling_size) == (0.9, 512)
    assert (algorithm.epsilon_base, algorithm.epsilon_last_power) == (0.4, 8.0)
    assert algorithm.evaluation_epsilon == 1e-3
    assert (algorithm.reward_scale, algorithm.reward_clip) == (1.0, 0.0)
    assert algorithm.stored_state
    assert (config.network.torso, config.network.lstm_size) == ("nature", 512)
    assert (atari.full_action_set, atari.sticky_action_probability) == (True, 0.0)
    assert (atari.life_loss_ends_episode, atari.fire_reset) == (False, False)
    evaluation = evaluation_environments(640, config.inference.evaluation_share)
    assert config.inference.max_envs == 640
    assert evaluation.sum() == 30


# Nothing is in memory twice: neither stacks of frames nor burn-ins, and little else is there.
@pytest.mark.parametrize("name", ["atari57_r2d2", "pong_r2d2"])
def test_memory_of_replay_is_that_of_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seed.run.plan.available_bytes", lambda device: 2**60)
    config, cpu = _load_by_name(name), torch.device("cpu")
    algorithm = load_algorithm(config.algorithm_name)
    spaces = Spaces(*describe(dataclasses.asdict(config.environment)))
    agent = make_agent(algorithm, config, spaces, cpu)
    layout = plan_store(algorithm, config, spaces, agent, cpu, replay=True)
    rows = config.replay.capacity_rows
    assert layout.row_nbytes <= 84 * 84 + 32
    assert rows * layout.row_nbytes < layout.nbytes <= 1.05 * rows * layout.row_nbytes


def test_both_sides_mean_the_same_by_atari_options() -> None:
    """Neither side may import the other, so their defaults could drift apart."""
    assert dataclasses.asdict(AtariConfig()) == dataclasses.asdict(AtariOptions())
