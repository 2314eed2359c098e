"""Learners take these configurations; they have room for their clients, and learn or do not."""

from __future__ import annotations

import pytest

from seed.config.checks import check, check_source
from seed.config.loading import from_tables
from seed.contract.loading import load_algorithm, load_algorithm_config
from seed.store.fleet import evaluation_environments
from seed.wire.limits import MAX_ENVS_PER_SERVER, MAX_GROUPS
from tools.bench.scaling import SMALL, split
from tools.bench.synthetic import KINDS, LEARNING, learner_tables, make_parser


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_learner_takes_it(kind: str) -> None:
    options = make_parser().parse_args(
        ["--servers", "3", "--rows-per-message", "512", "--torso", "nature"]
    )
    config = from_tables(learner_tables(kind, options), load_algorithm_config)
    check(config)
    check_source(config, load_algorithm(config.algorithm_name).DATA_SOURCE)
    assert config.local_envservers == 0
    assert config.environment.frames_per_env_step == 4
    assert config.network.torso == "nature"
    assert (config.inference.max_envs, config.inference.max_batch) == (3 * 2 * 512, 512)
    share = config.inference.evaluation_share
    nothing_learned = evaluation_environments(MAX_ENVS_PER_SERVER, share).all()
    assert nothing_learned == (kind not in LEARNING)
    if kind == "r2d2":
        # As published.
        assert (config.replay.ratio, config.learner.burn_in, config.network.lstm_size) == (
            0.75, config.learner.unroll_length // 2, 512,
        )  # fmt: skip


@pytest.mark.parametrize("connections", [1, 2, 64, 1000, 4000])
@pytest.mark.parametrize("environments", [16, 256, 4096])
def test_environments_are_split_over_connections(environments: int, connections: int) -> None:
    point = split("connections", SMALL, environments, connections)
    assert environments <= point.environments <= 2 * max(environments, connections)
    assert 1 <= point.groups <= MAX_GROUPS
    assert point.rows <= 32 or point.groups == MAX_GROUPS
    # One group steps while the other's observations are on their way.
    assert point.groups > 1 or environments <= connections
