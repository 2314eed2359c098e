"""Networks and optimizers as tensors, and back: the next updates are the same, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import OptimizerConfig
from seed.learner import checkpoint
from seed.learner.checkpoint import Checkpoint, CheckpointError
from seed.learner.optimizers import make_optimizer
from tests.seed.checkpoints import make_network, name_of, state_of, update

Kind = Literal["rmsprop_tf", "adam"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_the_next_updates_are_the_same(tmp_path: Path, kind: Kind, momentum: float) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=0.05, momentum=momentum, epsilon=0.01)
    network = make_network()
    optimizer = make_optimizer(network.parameters(), config)
    for _ in range(3):
        update(network, optimizer, torch.randn(4, 2))
    kept = Checkpoint(checkpoint.pack({"agent": network}, optimizer), state_of(1))
    path = checkpoint.save(tmp_path, name_of(1), kept, keep=1)
    tensors = checkpoint.load(path).tensors
    twin = make_network()
    twin_optimizer = make_optimizer(twin.parameters(), config)
    checkpoint.unpack_module(tensors, "agent", twin)
    checkpoint.unpack_optimizer(tensors, twin_optimizer)
    for _ in range(3):
        inputs = torch.randn(4, 2)
        update(network, optimizer, inputs)
        update(twin, twin_optimizer, inputs)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_an_optimizer_that_has_not_stepped_can_be_packed(kind: Kind) -> None:
    config, network = OptimizerConfig(kind=kind), make_network()
    optimizer = make_optimizer(network.parameters(), config)
    checkpoint.unpack_optimizer(checkpoint.pack({"agent": network}, optimizer), optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_the_settings_come_from_the_configuration() -> None:
    network = make_network()
    optimizer = make_optimizer(network.parameters(), OptimizerConfig(learning_rate=0.1))
    update(network, optimizer, torch.randn(4, 2))
    other = make_optimizer(network.parameters(), OptimizerConfig(learning_rate=0.2, beta1=0.0))
    checkpoint.unpack_optimizer(checkpoint.pack({"agent": network}, optimizer), other)
    assert other.param_groups[0]["lr"] == 0.2
    assert other.param_groups[0]["betas"] == (0.0, 0.999)


def unpack(
    tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    checkpoint.unpack_module(tensors, "agent", network)
    checkpoint.unpack_optimizer(tensors, optimizer)


@pytest.mark.parametrize(
    ("key", "tensor", "reason"),
    [
        ("agent.0.weight", torch.zeros(2, 3), r"'agent.0.weight' is float32 \[2, 3\] there, float"),
        ("agent.0.weight", torch.zeros(3, 2, dtype=torch.int64), r"int64 \[3, 2\] there, float32"),
        ("agent.0.weight", None, r"'agent.0.weight' is missing there, float32 \[3, 2\] here"),
        ("agent.9.weight", torch.zeros(1), r"'agent.9.weight' is float32 \[1\] there, missing her"),
        ("agent.0.weight", torch.full((3, 2), torch.nan), "no finite number"),
        ("agent.1.running_var", torch.full((3,), torch.nan), "no finite number"),
        ("optimizer.0.exp_avg", torch.zeros(2, 3), r"another optimizer or network: .*\[2, 3\]"),
        ("optimizer.0.exp_avg", torch.zeros(3, 2, dtype=torch.bool), "another optimizer or netw"),
        ("optimizer.0.exp_avg", None, "optimizer.0 lacks exp_avg$"),
        ("optimizer.0.step", torch.zeros(3, 2), "another optimizer or network: 'optimizer.0.step"),
        ("optimizer.0.exp_avg_sq", torch.full((3, 2), torch.inf), "no finite number"),
        ("optimizer.999.exp_avg", torch.zeros(1), "'optimizer.999.exp_avg' is float32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    key: str, tensor: Tensor | None, reason: str
) -> None:
    network = make_network()
    optimizer = make_optimizer(network.parameters(), OptimizerConfig())
    update(network, optimizer, torch.randn(4, 2))
    tensors = checkpoint.pack({"agent": network}, optimizer)
    unpack(tensors, network, optimizer)
    spoiled = {name: kept for name, kept in tensors.items() if name != key}
    if tensor is not None:
        spoiled[key] = tensor
    with pytest.raises(CheckpointError, match=reason):
        unpack(spoiled, network, optimizer)
