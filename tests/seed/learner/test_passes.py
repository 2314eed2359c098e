"""How a batch is dealt out: every item once in each pass, in an order of the run's own."""

from __future__ import annotations

import pytest
import torch

from seed.contract import Passes
from seed.learner.passes import as_rows, deal, sizes
from tests.seed.learner.test_update import BATCH, LENGTH, make_unroll


@pytest.mark.parametrize(
    ("count", "parts", "expected"),
    [(8, 4, [2, 2, 2, 2]), (7, 3, [3, 2, 2]), (8, 3, [3, 3, 2]), (2, 4, [1, 1]), (1, 1, [1]),
     (5, 1, [5]), (0, 3, [])],
)  # fmt: skip
def test_parts_are_as_even_as_can_be(count: int, parts: int, expected: list[int]) -> None:
    assert sizes(count, parts) == expected


def dealt(
    count: int, passes: Passes, seed: int = 1, update: int = 0
) -> list[tuple[int, list[int]]]:
    return [(epoch, items.tolist()) for epoch, items in deal(count, passes, seed, update)]


@pytest.mark.parametrize(("count", "minibatches"), [(1, 1), (8, 4), (7, 3), (2, 4)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_item_comes_once_in_each_pass(count: int, minibatches: int, epochs: int) -> None:
    parts = dealt(count, Passes(epochs, minibatches))
    assert len(parts) == epochs * len(sizes(count, minibatches))
    for epoch in range(epochs):
        items = [item for of, items in parts for item in items if of == epoch]
        assert sorted(items) == list(range(count))


def test_the_order_is_the_seeds_and_the_updates_and_nobody_elses() -> None:
    passes = Passes(2, 4)
    torch.manual_seed(0)
    first = dealt(32, passes)
    before = torch.get_rng_state()
    assert dealt(32, passes) == first
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert dealt(32, passes) == first
    assert first[0][1] != first[4][1], "each pass shuffles anew"
    assert dealt(32, passes, seed=2) != first != dealt(32, passes, update=8)


def test_rows_are_laid_side_by_side_without_the_last() -> None:
    unroll = make_unroll(0, burn_in=0)
    prepared = torch.arange(LENGTH * BATCH).view(LENGTH, BATCH)
    unroll.prepared["place"] = prepared
    rows = as_rows(unroll)
    assert rows.burn_in == 0
    assert rows.agent_state.shape == (LENGTH * BATCH, 0)
    for t in range(LENGTH):
        for b in range(BATCH):
            row = rows.select(torch.tensor([t * BATCH + b]))
            assert row.prepared["place"].tolist() == [[t * BATCH + b]]
            assert row.importance == unroll.importance[b]
            for part, whole in [
                (row.rows.observations[""], unroll.rows.observations[""]),
                (row.rows.rewards, unroll.rows.rewards), (row.rows.first, unroll.rows.first),
                (row.actions, unroll.actions), (row.policy_versions, unroll.policy_versions),
                (row.behaviour["policy"], unroll.behaviour["policy"]),
            ]:  # fmt: skip
                assert torch.equal(part[0, 0], whole[t, b])
