"""Whether two unrolls are the same."""

from __future__ import annotations

import torch

from seed.device.transfer import tensors_of
from seed.store.rows import Unroll


def assert_same(first: Unroll, second: Unroll) -> None:
    """In rows, actions, behaviour, versions and recurrent state."""
    columns = [
        (*tensors_of(unroll.rows), *unroll.behaviour.values(), unroll.actions,
         unroll.policy_versions, unroll.agent_state)
        for unroll in (first, second)
    ]  # fmt: skip
    assert all(map(torch.equal, *columns))
