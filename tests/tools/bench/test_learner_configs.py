"""The configurations are accepted by the learner's own reader, and mean what they say."""

from __future__ import annotations

import pytest

from seed.config.checks import check, check_source
from seed.config.loading import from_tables
from seed.contract.loading import load_algorithm, load_algorithm_config
from seed.store.fleet import evaluation_environments
from seed.wire.limits import MAX_ENVS_PER_SERVER
from tools.bench.learner_configs import (
    Load,
    Tables,
    Training,
    inference_tables,
    null_tables,
    r2d2_tables,
    vtrace_tables,
)

LOAD = Load(max_envs=4096, max_batch=256, torso="nature")
TRAINING = Training(unroll_length=40, batch_size=8, lstm_size=512)
ALL = {
    "null": null_tables(LOAD),
    "inference": inference_tables(LOAD),
    "vtrace": vtrace_tables(LOAD, TRAINING),
    "r2d2": r2d2_tables(LOAD, TRAINING),
}


@pytest.mark.parametrize("tables", ALL.values(), ids=ALL)
def test_a_learner_takes_it(tables: Tables) -> None:
    config = from_tables(tables, load_algorithm_config)
    check(config)
    check_source(config, load_algorithm(config.algorithm_name).DATA_SOURCE)
    assert config.local_envservers == 0
    assert config.environment.frames_per_env_step == 4
    assert config.network.torso == "nature"


@pytest.mark.parametrize("kind", ["null", "inference"])
def test_nothing_is_learned_from_any_environment(kind: str) -> None:
    config = from_tables(ALL[kind], load_algorithm_config)
    share = config.inference.evaluation_share
    assert evaluation_environments(MAX_ENVS_PER_SERVER, share).all()


def test_r2d2_has_the_published_proportions() -> None:
    config = from_tables(ALL["r2d2"], load_algorithm_config)
    assert config.replay.ratio == 0.75
    assert config.replay.burn_in == 20
    assert config.network.lstm_size == 512
