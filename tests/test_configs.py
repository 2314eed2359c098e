"""Every configuration that ships can be run, and means what its comments say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from envservers.atari import AtariOptions
from envservers.environments import describe
from seed.config import AtariConfig, Config, check
from seed.config_loading import from_tables, read_toml
from seed.contract import load_algorithm_config

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def _load(path: Path) -> Config:
    config = from_tables(read_toml(path), load_algorithm_config)
    check(config)
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_whole_and_its_environment_exists(path: Path) -> None:
    config = _load(path)
    assert config.run_dir == f"runs/{path.stem}"
    observation, _ = describe(dataclasses.asdict(config.environment))
    assert observation.nbytes > 0


@pytest.mark.parametrize("name", ["pong_vtrace", "breakout_vtrace"])
def test_atari_preprocessing_is_the_standard_one(name: str) -> None:
    """A lost action repeat, of all things, kept the original from learning Pong."""
    config = _load(next(path for path in FILES if path.stem == name))
    atari = config.environment.atari
    assert atari.action_repeat == config.environment.frames_per_env_step == 4
    assert (atari.screen_size, atari.grayscale, atari.max_pool) == (84, True, True)
    assert (atari.noop_max, atari.max_frames_per_episode) == (30, 108_000)
    assert config.network.frame_stack == 4


def test_both_sides_mean_the_same_by_atari_options() -> None:
    """Neither side may import the other, so their defaults could drift apart."""
    assert dataclasses.asdict(AtariConfig()) == dataclasses.asdict(AtariOptions())
