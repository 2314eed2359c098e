"""Replay's memory: the published run's, and that all of a smaller one has been written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from envservers.environments.factory import describe
from seed.config.loading import parse_command_line
from seed.config.schema import Config
from seed.contract.loading import load_algorithm_config
from seed.learner.replay import Replay
from seed.run.description import Spaces
from seed.store.unrolls import UnrollStore
from tests.tools.bench.test_commands import ATARI, ROW_NBYTES, STATE_NBYTES
from tools.bench.replay import build_store, count_bytes, fill, scaled_config, whole_layout


def _config(*words: str) -> Config:
    return parse_command_line([ATARI, *words], load_algorithm_config).config


@pytest.fixture(scope="module")
def spaces() -> Spaces:
    return Spaces(*describe(dataclasses.asdict(_config().environment)))


def test_the_published_run_takes_hardly_more_than_its_rows(spaces: Spaces) -> None:
    layout = whole_layout(_config(), spaces)
    # Open page, context and queue of 640 environments; the queue's limit and a batch, twice.
    others = 3 * 640 + 2 * (2 * 64 + 64)
    whole = count_bytes(UnrollStore(layout, torch.device("meta")))
    assert whole["rows"] == 8_000_000
    assert whole["store_nbytes"] == (
        (100_000 + others) * (80 * ROW_NBYTES + STATE_NBYTES) + 2 * (ROW_NBYTES + STATE_NBYTES)
    )
    assert whole["ratio"] == whole["store_nbytes"] / (8_000_000 * ROW_NBYTES) <= 1.05
    # A hundredth of 100 000 unrolls, and of 640 environments.
    config = scaled_config(_config(), 80_000, layout)
    assert (config.inference.max_envs, config.replay.capacity_rows) == (6, 80_000)


def test_all_rows_of_a_full_replay_have_been_written(spaces: Spaces) -> None:
    config = _config("--learner.unroll-length", "8", "--learner.burn-in", "4",
                     "--learner.batch-size", "3")  # fmt: skip
    config = scaled_config(config, 800, whole_layout(config, spaces))
    store = build_store(config, spaces, torch.device("cpu"))
    for name, column in store.columns.items():
        column[:-1] = 0
        assert not column.any(), name
    replay = Replay(store, 3, config.replay, np.random.default_rng(0))
    held = fill(store, replay)
    assert len({links.page for links in held}) == len(held) == len(replay) == 100
    # The oldest have been evicted: the first page of all had none before it.
    assert min(links.predecessor for links in held) >= 0
    unroll = store.gather(held)
    assert unroll.rows.observations[""].flatten(2).any(dim=-1).all()
    assert unroll.agent_state.all()
