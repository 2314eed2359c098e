"""Networks and optimizers as tensors, and back: the next updates are the same, or it is refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import OptimizerConfig
from seed.contract import Group
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
    checkpoint.unpack_optimizer(tensors, twin, twin_optimizer)
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
    packed = checkpoint.pack({"agent": network}, optimizer)
    checkpoint.unpack_optimizer(packed, network, optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_the_settings_come_from_the_configuration() -> None:
    network = make_network()
    optimizer = make_optimizer(network.parameters(), OptimizerConfig(learning_rate=0.1))
    update(network, optimizer, torch.randn(4, 2))
    other = make_optimizer(network.parameters(), OptimizerConfig(learning_rate=0.2, beta1=0.0))
    checkpoint.unpack_optimizer(checkpoint.pack({"agent": network}, optimizer), network, other)
    assert other.param_groups[0]["lr"] == 0.2
    assert other.param_groups[0]["betas"] == (0.0, 0.999)


def unpack(
    tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    checkpoint.unpack_module(tensors, "agent", network)
    checkpoint.unpack_optimizer(tensors, network, optimizer)


@pytest.mark.parametrize(
    ("key", "tensor", "reason"),
    [
        ("agent.0.weight", torch.zeros(2, 3), r"'agent.0.weight' is float32 \[2, 3\] there, float"),
        ("agent.0.weight", torch.zeros(3, 2, dtype=torch.int64), r"int64 \[3, 2\] there, float32"),
        ("agent.0.weight", None, r"'agent.0.weight' is missing there, float32 \[3, 2\] here"),
        ("agent.9.weight", torch.zeros(1), r"'agent.9.weight' is float32 \[1\] there, missing her"),
        ("agent.0.weight", torch.full((3, 2), torch.nan), "no finite number"),
        ("agent.1.running_var", torch.full((3,), torch.nan), "no finite number"),
        ("optimizer.0.weight.exp_avg", torch.zeros(2, 3), r"optimizer or network.*\[2, 3\]"),
        ("optimizer.0.weight.exp_avg", torch.zeros(3, 2).bool(), "another optimizer or netw"),
        ("optimizer.0.weight.exp_avg", None, r"optimizer\.0\.weight lacks exp_avg$"),
        ("optimizer.0.weight.step", torch.zeros(3, 2), "network: 'optimizer.0.weight.step"),
        ("optimizer.0.weight.exp_avg_sq", torch.full((3, 2), torch.inf), "no finite number"),
        ("optimizer.999.exp_avg", torch.zeros(1), "'optimizer.999.exp_avg' is of no parameter"),
        ("optimizer.9.weight.exp_avg", torch.zeros(1), "exp_avg' is of no parameter that is tr"),
        ("optimizer.exp_avg", torch.zeros(1), "'optimizer.exp_avg' is of no parameter"),
        ("optimizer.0.exp_avg", torch.zeros(2, 3), r"'optimizer.0.exp_avg' is float32 \[2, 3\]"),
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


def pack_by_place(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """As version 0.1 did: the optimizer's state by the parameters' places in it."""
    tensors = {f"agent.{key}": tensor for key, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in state.items()}
    return tensors


def groups_of(network: nn.Module, *names: str) -> dict[str, Group]:
    """Each of these parts in a group of its own, in this order."""
    parts = {name: network.get_submodule(name) for name in names}
    return {name: Group(list(part.parameters())) for name, part in parts.items()}


@pytest.mark.parametrize("order", [None, "012", "210"])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_state_goes_to_its_parameter_whatever_the_groups(
    kind: Kind, old: bool, order: str | None
) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=0.05, momentum=0.9, epsilon=0.01)
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    optimizer = make_optimizer(network.parameters(), config)
    for _ in range(3):
        update(network, optimizer, torch.randn(4, 2))
    tensors = checkpoint.pack({"agent": network}, optimizer)
    if old:
        tensors = pack_by_place(network, optimizer)
    twin = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    trained = twin.parameters() if order is None else groups_of(twin, *order)
    twin_optimizer = make_optimizer(trained, config)
    unpack(tensors, twin, twin_optimizer)
    for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
        kept, loaded = optimizer.state[mine], twin_optimizer.state[other]
        assert kept.keys() == loaded.keys() != set()
        assert all(torch.equal(kept[key], loaded[key]) for key in kept)


def test_state_of_what_is_no_longer_trained_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = make_optimizer(network.parameters(), OptimizerConfig())
    update(network, optimizer, torch.randn(4, 2))
    tensors = checkpoint.pack({"agent": network}, optimizer)
    other = make_optimizer(groups_of(network, "1"), OptimizerConfig())
    with pytest.raises(CheckpointError, match=r"'optimizer\.0\.weight\..*' is of no parameter"):
        checkpoint.unpack_optimizer(tensors, network, other)


# Without dots, a name could be taken for a place.
def test_a_name_comes_before_a_place() -> None:
    network = nn.ParameterDict(OrderedDict({"1": torch.zeros(1), "0": torch.zeros(1)}))
    assert list(network) == ["1", "0"]
    optimizer = make_optimizer(network.parameters(), OptimizerConfig())
    for name, parameter in network.items():
        parameter.grad = torch.full((1,), 1.0 + int(name))
    optimizer.step()
    kept = checkpoint.pack({"agent": network}, optimizer)
    other = make_optimizer(network.parameters(), OptimizerConfig())
    checkpoint.unpack_optimizer(kept, network, other)
    for parameter in network.values():
        assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
