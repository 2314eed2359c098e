"""How many unrolls replay holds, by rows or by memory, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed.config.schema import ConfigError, ReplayConfig
from seed.learner.replay import count_unrolls
from seed.store.unrolls import UnrollStore
from tests.seed.counting import CPU, LAYOUT, LENGTH

# What the store needs without replay.
BASE = replace(LAYOUT, num_pages=30, replay_unrolls=0, burn_in=0)


@pytest.mark.parametrize(
    ("rows", "unrolls"), [(LENGTH, 1), (2 * LENGTH - 1, 1), (2 * LENGTH, 2), (6000, 1000)]
)
def test_rows_are_unrolls_of_whole_pages(rows: int, unrolls: int) -> None:
    assert count_unrolls(BASE, ReplayConfig(capacity_rows=rows)) == unrolls


@given(nbytes=st.integers(15_000, 200_000), state_size=st.integers(0, 9))
def test_gib_are_what_the_whole_store_takes(nbytes: int, state_size: int) -> None:
    base = replace(BASE, state_size=state_size)
    unrolls = count_unrolls(base, ReplayConfig(capacity_gib=nbytes / 2**30))
    store = UnrollStore(replace(base, num_pages=base.num_pages + unrolls), CPU)
    assert store.nbytes == store.layout.nbytes
    assert nbytes - base.page_nbytes < store.nbytes <= nbytes


@pytest.mark.parametrize("config", [ReplayConfig(), ReplayConfig(60, 1.0)], ids=["none", "both"])
def test_refuses_all_but_one_of_rows_and_gib(config: ReplayConfig) -> None:
    with pytest.raises(ConfigError, match=r"^replay.capacity_rows = .*capacity_gib = .*one of the"):
        count_unrolls(BASE, config)


@pytest.mark.parametrize(
    ("config", "given", "held"),
    [
        (ReplayConfig(capacity_rows=LENGTH - 1), "replay.capacity_rows = 5", 0),
        (ReplayConfig(capacity_gib=1e-9), "replay.capacity_gib = 1e-09", 0),
        (ReplayConfig(capacity_gib=(BASE.nbytes + BASE.page_nbytes - 1) / 2**30), "gib = ", 0),
    ],
)
def test_refuses_less_than_one_unroll(config: ReplayConfig, given: str, held: int) -> None:
    with pytest.raises(ConfigError, match=rf"{given}.*: holds {held} unrolls of 6 rows") as refused:
        count_unrolls(BASE, config)
    assert f"30 pages of {BASE.page_nbytes} bytes" in str(refused.value)


# Else learning would never start.
@pytest.mark.parametrize("min_rows", [60, 61, 66])
def test_refuses_to_wait_for_more_rows_than_it_holds(min_rows: int) -> None:
    needed = math.ceil(min_rows / LENGTH)
    config = ReplayConfig(capacity_rows=LENGTH * needed, min_rows=min_rows)
    assert count_unrolls(BASE, config) == needed
    with pytest.raises(ConfigError, match=rf"at least {needed} \(replay.min_rows = {min_rows}\)"):
        count_unrolls(BASE, replace(config, capacity_rows=LENGTH * needed - 1))
