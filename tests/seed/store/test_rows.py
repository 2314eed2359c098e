"""Unrolls out of a batch, whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seed.device.transfer import map_tensors
from seed.store.rows import Rows, Unroll

LENGTH, BATCH, BURN_IN = 3, 4, 2
# Of every tensor the last numbers say whose it is.
OWNERS = torch.arange(BATCH)


def along(*shape: int) -> Tensor:
    """Numbers `[*shape, B]` that say to which unroll they belong."""
    return OWNERS.expand(*shape, BATCH).clone()


def make_unroll(observations: dict[str, Tensor]) -> Unroll:
    count = BURN_IN + LENGTH + 1
    flags = along(count) % 2 == 1
    rows = Rows(observations, along(count), along(count).float(), flags, flags, flags)
    return Unroll(
        rows, along(count), {"policy": along(count)[..., None].expand(-1, -1, 5).float()},
        along(count), along(7).T.float(), OWNERS.float(), BURN_IN,
        {"advantages": along(LENGTH).float()},
    )  # fmt: skip


@pytest.mark.parametrize(
    "observations",
    [{"": along(6)[..., None].byte()}, {"image": along(6).byte(), "speed": along(6).float()}, {}],
    ids=["one", "parts", "none"],
)
@pytest.mark.parametrize("items", [[2], [3, 0], [0, 1, 2, 3], [1, 1], []])
def test_all_of_an_unroll_is_taken_and_nothing_of_the_others(
    observations: dict[str, Tensor], items: list[int]
) -> None:
    unroll = make_unroll(observations)
    chosen = unroll.select(torch.tensor(items, dtype=torch.int64))
    assert chosen.burn_in == BURN_IN
    owners = torch.tensor(items)
    for of_all, part in zip(tensors(unroll), tensors(chosen), strict=True):
        along = 1 if of_all.shape[1:2] == (BATCH,) else 0
        assert part.dtype == of_all.dtype
        assert part.shape[along] == len(items)
        expected = owners % 2 if part.dtype == torch.bool else owners
        assert (part.movedim(along, -1) == expected).all()


def tensors(unroll: Unroll) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(unroll, lambda part: found.append(part) or part)  # type: ignore[func-returns-value]
    return found


def test_nothing_is_prepared_unless_it_is_said() -> None:
    unroll = make_unroll({"": along(6)})
    bare = Unroll(**{name: value for name, value in vars(unroll).items() if name != "prepared"})
    assert bare.prepared == {}
    assert replace(unroll, prepared={}).select(OWNERS).prepared == {}
