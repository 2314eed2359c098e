"""The measurement of replay's memory runs, and counts every byte; its times are not judged."""

from __future__ import annotations

import dataclasses
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envservers.environments.factory import describe
from seed.config.schema import Config
from seed.learner.replay import Replay
from seed.run.description import Spaces
from seed.store.unrolls import UnrollStore
from tools.bench.replay_memory import (
    build_store,
    count_bytes,
    fill,
    main,
    make_config,
    make_parser,
    scaled_config,
    taken_bytes,
    whole_layout,
)

ATARI = Path(__file__).parents[3] / "configs" / "atari57_r2d2.toml"
# 84 x 84 pixels, action, reward, terminated, truncated, age, policy version, two values of Q
ROW_NBYTES = 84 * 84 + 8 + 4 + 1 + 1 + 1 + 4 + 2 * 4
STATE_NBYTES = 4 * 2 * 512
TINY = ("--unroll", "8", "--burn-in", "4", "--batch", "3")
CPU = torch.device("cpu")


def _config(*options: str) -> Config:
    return make_config(make_parser().parse_args(["--config", str(ATARI), *options]))


@pytest.fixture(scope="module")
def spaces() -> Spaces:
    return Spaces(*describe(dataclasses.asdict(_config().environment)))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    rest = ("--rows", "800", "--repetitions", "2", "--json", str(path))
    main(["--config", str(ATARI), *TINY, *rest])
    read: dict[str, Any] = json.loads(path.read_text())
    return read


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


def test_fewer_rows_are_of_fewer_environments(spaces: Spaces) -> None:
    config = scaled_config(_config(), 80_000, whole_layout(_config(), spaces))
    # A hundredth of 100 000 unrolls, and of 640 environments.
    assert config.inference.max_envs == 6
    assert (config.replay.capacity_rows, config.replay.min_rows) == (80_000, 80_000)


def test_all_rows_of_a_full_replay_have_been_written(spaces: Spaces) -> None:
    config = _config(*TINY)
    config = scaled_config(config, 800, whole_layout(config, spaces))
    store = build_store(config, spaces, CPU)
    for name, column in store.columns.items():
        column[:-1] = 0
        assert not column.any(), name
    replay = Replay(store, 3, config.replay, np.random.default_rng(0))
    held = fill(store, replay)
    assert len({links.page for links in held}) == len(held) == len(replay) == 100
    # The oldest have been evicted: the first page of all had none before it.
    assert min(links.predecessor for links in held) >= 0
    unroll = store.gather(held)
    assert unroll.rows.observations.flatten(2).any(dim=-1).all()
    assert unroll.agent_state.all()


def test_memory_taken_is_seen() -> None:
    size = 100_000_000
    before = taken_bytes(CPU)
    # Not from the C library, which may have memory left over from other tests.
    with mmap.mmap(-1, size) as kept:
        for offset in range(0, size, mmap.PAGESIZE):
            kept[offset] = 1
        assert 0.9 < (taken_bytes(CPU) - before) / size < 1.5


@pytest.mark.parametrize("name", ["measured", "whole"])
def test_the_parts_make_the_store(figures: dict[str, Any], name: str) -> None:
    part = figures[name]
    parts = ("rows_nbytes", "states_nbytes", "other_pages_nbytes", "zero_rows_nbytes")
    assert sum(part[each] for each in parts) == part["store_nbytes"]
    assert part["row_nbytes"] == ROW_NBYTES
    assert part["rows_nbytes"] == part["rows"] * ROW_NBYTES
    assert part["states_nbytes"] == part["unrolls"] * STATE_NBYTES


def test_the_measured_replay_has_the_rows_asked_for(figures: dict[str, Any]) -> None:
    measured = figures["measured"]
    assert (measured["rows"], measured["unrolls"]) == (800, 100)
    assert measured["taken_ratio"] == measured["taken_nbytes"] / measured["rows_nbytes"]


def test_every_part_of_a_batch_is_timed(figures: dict[str, Any]) -> None:
    names = set(figures["parts"])
    assert names == {"sampling", "importance weights", "whole batch"}
    for gather in figures["gathers"]:
        assert set(gather["median_ms"]) == {"copy", "copy to new memory", "gather"}
        assert min(gather["median_ms"].values()) > 0


def test_copies_are_of_what_a_gather_returns(figures: dict[str, Any]) -> None:
    # previous action, reward, three flags, action, behaviour, policy version
    rest = 8 + 4 + 3 + 8 + 2 * 4 + 8
    for gather, stack in zip(figures["gathers"], (4, 1), strict=True):
        assert gather["frame_stack"] == stack
        rows = 3 * (4 + 8 + 1) * (stack * 84 * 84 + rest)
        assert gather["nbytes"] == rows + 3 * (STATE_NBYTES + 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rows", "79"), "--rows = 79: expected at least the 80"),
        (("--burn-in", "78"), "replay.burn_in = 78"),
        (("--device", "cpu:x"), "--device = 'cpu:x'"),
        (("--repetitions", "0"), "0: expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--config", str(ATARI), *options])
    assert expected in capsys.readouterr().err
