"""What the model of the store does not see of the page table: limits, and pages of no history."""

from __future__ import annotations

import numpy as np
import pytest

from seed.store.pages import MAX_AGE, NO_ENVIRONMENT, NO_PAGE, PageLinks, PageSlots, PageTable
from seed.wire.messages import NO_HISTORY


def make_table(num_pages: int, unroll_length: int, max_envs: int) -> PageTable:
    return PageTable(num_pages, unroll_length, np.zeros(max_envs, np.bool_))


def advance(
    table: PageTable, env_ids: list[int], run_ids: list[int], first: list[bool] | None = None
) -> PageSlots:
    flags = np.array(first if first is not None else [False] * len(env_ids))
    return table.advance(np.array(env_ids), np.array(run_ids, np.uint64), flags)


def test_ages_count_from_the_episode_and_stop_at_their_limit() -> None:
    table = make_table(400, 2, 2)
    slots = [advance(table, [0, 1], [1, 1], [t == 3, False]) for t in range(MAX_AGE + 5)]
    ages = np.array([each.ages for each in slots])
    assert ages[:6, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert ages[-6:, 1].tolist() == [MAX_AGE - 1] + [MAX_AGE] * 5


def test_rows_of_an_environment_that_is_down_join_nothing_and_are_not_missed() -> None:
    table = make_table(4, 2, 1)
    advance(table, [0], [7], [True])
    for _ in range(5):
        slots = advance(table, [0], [NO_HISTORY], [True])
        assert (slots.complete, slots.offsets.tolist()) == ([], [0])
        assert table.num_free == 3
    # The one row of the history before.
    assert table.rows_dropped == 1
    rows = [advance(table, [0], [8], [t == 0]) for t in range(3)]
    assert rows[2].complete == [PageLinks(NO_PAGE, int(rows[0].pages[0]), int(rows[2].pages[0]))]
    assert table.rows_dropped == 1


@pytest.mark.parametrize("run_id", [1, 2**64 - 1])
def test_run_ids_use_all_64_bits(run_id: int) -> None:
    table = make_table(4, 4, 1)
    advance(table, [0], [run_id])
    assert advance(table, [0], [run_id]).offsets.tolist() == [1]
    assert advance(table, [0], [run_id ^ 2**63]).offsets.tolist() == [0]


def test_reserved_pages_are_nobodys_and_free_again_once_all_their_unrolls_are_consumed() -> None:
    table = make_table(6, 2, 2)
    first, second, third, fourth = table.reserve(np.array([2, 3, 2, 1])).tolist()
    others = advance(table, [0, 1], [1, 1]).pages.tolist()
    assert len({first, second, third, fourth, *others}) == 6
    unrolls = [
        PageLinks(NO_PAGE, first, second), PageLinks(first, second, third),
        PageLinks(second, third, fourth),
    ]  # fmt: skip
    assert table.owners(np.array(unrolls)) == [NO_ENVIRONMENT] * 3
    free = []
    for links in unrolls:
        table.consume([links])
        free.append(table.num_free)
    assert free == [0, 1, 4]
