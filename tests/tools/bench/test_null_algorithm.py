"""The null algorithm keeps to the contract and does nothing."""

from __future__ import annotations

import pytest
import torch

from seed.config.schema import NetworkConfig
from seed.contract import Fleet
from seed.contract.loading import load_algorithm
from seed.store.rows import Rows
from seed.wire.spaces import SpaceSpec

IMAGE = SpaceSpec("uint8", (8, 8))


@pytest.mark.parametrize(
    ("action", "dtype"),
    [(SpaceSpec("int64", (), 18), torch.int64), (SpaceSpec("float32", (2,)), torch.float32)],
)
def test_it_acts_with_zeros(action: SpaceSpec, dtype: torch.dtype) -> None:
    algorithm = load_algorithm("tools.bench.null_algorithm")
    agent = algorithm.make_agent(IMAGE, action, NetworkConfig(), algorithm.Config())
    none, zeros = torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3)
    rows = Rows(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), zeros, zeros, none, none, none)
    acted = algorithm.act(
        agent, rows, torch.zeros(3, 0), algorithm.Config(),
        fleet=Fleet(zeros[0], none[0]), greedy=False,
    )  # fmt: skip
    assert acted.actions.shape == (3, *action.shape)
    assert acted.actions.dtype == dtype
    assert not acted.actions.any()
    assert acted.behaviour == {}
