"""RMSProp in TensorFlow's form against its equations, and the choice by configuration."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import OptimizerConfig
from seed.contract import Group
from seed.learner.optimizers import (
    RmsPropTf,
    learning_rate_fraction,
    linear_learning_rate,
    make_optimizer,
    set_learning_rate,
)

CONFIG = OptimizerConfig(
    kind="rmsprop_tf",
    learning_rate=0.01,
    decay=0.9,
    momentum=0.5,
    epsilon=0.01,
    beta1=0.3,
    beta2=0.8,
    final_learning_rate_fraction=0.25,
    clip_norm=40.0,
)


def make_parameters() -> list[Tensor]:
    return [torch.randn(shape).requires_grad_() for shape in ((3, 2), (4,), ())]


def set_gradients(parameters: list[Tensor], scale: float = 1.0) -> None:
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * scale


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_matches_the_equations(momentum: float, scale: float) -> None:
    parameters = make_parameters()
    optimizer = RmsPropTf(parameters, 0.05, decay=0.8, momentum=momentum, epsilon=0.01)
    twins = [p.detach().numpy().astype(np.float64) for p in parameters]
    mean_squares = [np.ones_like(twin) for twin in twins]
    buffers = [np.zeros_like(twin) for twin in twins]
    for step in range(6):
        learning_rate = 0.05 / (step + 1)
        optimizer.param_groups[0]["lr"] = learning_rate
        set_gradients(parameters, scale)
        for i, parameter in enumerate(parameters):
            assert parameter.grad is not None
            gradient = parameter.grad.numpy().astype(np.float64)
            mean_squares[i] = 0.8 * mean_squares[i] + 0.2 * gradient**2
            update = learning_rate * gradient / np.sqrt(mean_squares[i] + 0.01)
            buffers[i] = momentum * buffers[i] + update
            twins[i] = twins[i] - buffers[i]
        optimizer.step()
        for parameter, twin in zip(parameters, twins, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), twin, rtol=1e-5, atol=1e-6)


def test_parameters_without_gradient_stay() -> None:
    with_gradient, without = make_parameters()[:2]
    before = with_gradient.detach().clone(), without.detach().clone()
    optimizer = RmsPropTf([with_gradient, without], 0.1)
    optimizer.step()
    assert torch.equal(with_gradient, before[0])
    set_gradients([with_gradient])
    optimizer.step()
    assert torch.equal(without, before[1])
    assert not torch.equal(with_gradient, before[0])


def test_each_group_keeps_its_own_learning_rate() -> None:
    still, moving = make_parameters()[:2]
    before = still.detach().clone(), moving.detach().clone()
    optimizer = RmsPropTf([still], 0.0)
    optimizer.add_param_group({"params": [moving], "lr": 0.1})
    set_gradients([still, moving])
    optimizer.step()
    assert torch.equal(still, before[0])
    assert not torch.equal(moving, before[1])


def test_step_returns_the_loss_of_its_closure() -> None:
    parameter = torch.tensor(3.0, requires_grad=True)
    optimizer = RmsPropTf([parameter], 0.1)

    def closure() -> float:
        loss = parameter.square()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert parameter.item() < 3.0


@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_saved_state_goes_on_the_same(kind: str) -> None:
    config = replace(CONFIG, kind=kind)  # type: ignore[arg-type]
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, config)
    for _ in range(3):
        set_gradients(parameters)
        optimizer.step()
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    restored = make_optimizer(copies, replace(config, learning_rate=7.0, decay=0.1, beta2=0.1))
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    set_gradients(parameters)
    for parameter, twin in zip(parameters, copies, strict=True):
        assert parameter.grad is not None
        twin.grad = parameter.grad.clone()
    optimizer.step()
    restored.step()
    for parameter, twin in zip(parameters, copies, strict=True):
        assert torch.equal(parameter, twin)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"decay": 1.0}, "decay must be at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be at least 0"),
        ({"epsilon": 0.0}, "epsilon must be above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be at least 0, got nan"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, float], text: str) -> None:
    arguments = {"learning_rate": 0.1} | settings
    with pytest.raises(ValueError, match=text):
        RmsPropTf(make_parameters(), **arguments)


def test_make_rmsprop_passes_its_settings() -> None:
    optimizer = make_optimizer(make_parameters(), CONFIG)
    assert type(optimizer) is RmsPropTf
    assert optimizer.defaults == {"lr": 0.01, "decay": 0.9, "momentum": 0.5, "epsilon": 0.01}


def test_make_adam_passes_its_settings() -> None:
    optimizer = make_optimizer(make_parameters(), replace(CONFIG, kind="adam"))
    assert type(optimizer) is torch.optim.Adam
    defaults = optimizer.defaults
    assert (defaults["lr"], defaults["betas"], defaults["eps"]) == (0.01, (0.3, 0.8), 0.01)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_a_learning_rate_of_zero_changes_nothing(kind: str, capturable: bool) -> None:
    parameters = make_parameters()
    config = replace(CONFIG, kind=kind, momentum=0.0)  # type: ignore[arg-type]
    optimizer = make_optimizer(parameters, config, capturable=capturable)
    set_learning_rate(optimizer, 0.0)
    before = [parameter.detach().clone() for parameter in parameters]
    set_gradients(parameters)
    optimizer.step()
    assert all(map(torch.equal, parameters, before))


@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_step_that_can_be_captured_is_the_same_step(kind: str, momentum: float) -> None:
    config = replace(CONFIG, kind=kind, momentum=momentum)  # type: ignore[arg-type]
    parameters = make_parameters()
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    optimizer = make_optimizer(parameters, config)
    capturable = make_optimizer(copies, config, capturable=True)
    for step in range(5):
        set_gradients(parameters)
        for parameter, twin in zip(parameters, copies, strict=True):
            assert parameter.grad is not None
            twin.grad = parameter.grad.clone()
        for each in (optimizer, capturable):
            set_learning_rate(each, 0.1 / (step + 1))
            each.step()
        for parameter, twin in zip(parameters, copies, strict=True):
            torch.testing.assert_close(twin, parameter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_a_step_that_can_be_captured_reads_its_rate_where_it_always_is(kind: str) -> None:
    config = replace(CONFIG, kind=kind)  # type: ignore[arg-type]
    optimizer = make_optimizer(make_parameters(), config, capturable=True)
    rate = optimizer.param_groups[0]["lr"]
    assert rate.item() == pytest.approx(0.01)
    set_learning_rate(optimizer, 0.005)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.005)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("kind", ["rmsprop_tf", "adam"])
def test_a_groups_own_rate_falls_by_the_schedules_fraction(kind: str, capturable: bool) -> None:
    own, usual, still = ([parameter] for parameter in map(nn.Parameter, make_parameters()))
    groups = {"own": Group(own, 0.4, 1.0), "usual": Group(usual), "still": Group(still, 0.0)}
    config = replace(CONFIG, kind=kind)  # type: ignore[arg-type]
    optimizer = make_optimizer(groups, config, capturable=capturable)
    assert [group["params"] for group in optimizer.param_groups] == [own, usual, still]
    assert [group["clip_norm"] for group in optimizer.param_groups] == [1.0, None, None]
    assert rates_of(optimizer) == pytest.approx([0.4, 0.01, 0.0])
    fraction = learning_rate_fraction(config, 0.5)
    set_learning_rate(optimizer, linear_learning_rate(config, 0.5), fraction)
    assert fraction == 0.625
    assert rates_of(optimizer) == pytest.approx([0.25, 0.00625, 0.0])


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.01), (0.5, 0.00625), (1.0, 0.0025), (1.5, 0.0025)]
)
def test_learning_rate_falls_linearly(progress: float, expected: float) -> None:
    assert linear_learning_rate(CONFIG, progress) == pytest.approx(expected)


def test_learning_rate_falls_to_zero_exactly() -> None:
    config = replace(CONFIG, final_learning_rate_fraction=0.0)
    assert linear_learning_rate(config, 1.0) == 0.0
