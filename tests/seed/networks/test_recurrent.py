"""The LSTM core against a slow twin, and its gradient against torch's and small differences."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from seed.device.graphs import CapturedCall
from seed.networks.recurrent import LstmCore
from tests.seed.gpu_streams import own_stream

Array: TypeAlias = npt.NDArray[np.float64]


def torch_lstm(core: LstmCore) -> nn.LSTM:
    """torch's LSTM with the same weights."""
    lstm = nn.LSTM(core.input.in_features, core.output_size)
    lstm.load_state_dict(
        {
            "weight_ih_l0": core.input.weight,
            "weight_hh_l0": core.recurrent.weight,
            "bias_ih_l0": core.input.bias,
            "bias_hh_l0": torch.zeros_like(core.input.bias),
        }
    )
    return lstm


def run_torch(lstm: nn.LSTM, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    h, c = state.chunk(2, dim=-1)
    outputs, (h, c) = lstm(features, (h[None].contiguous(), c[None].contiguous()))
    return outputs, torch.cat([h[0], c[0]], dim=-1)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def step_slowly(core: LstmCore, features: Tensor, first: Tensor, state: Tensor) -> Array:
    """h and c after each row [T, B, 2, H], one unit of one environment after the other."""
    size = core.output_size
    weights = [p.detach().double().numpy() for p in core.parameters()]
    input_weight, bias, recurrent_weight = weights
    states = np.zeros((*first.shape, 2, size))
    for b in range(first.shape[1]):
        h, c = state[b].double().numpy().reshape(2, size)
        for t in range(first.shape[0]):
            if first[t, b]:
                h, c = np.zeros(size), np.zeros(size)
            gates = input_weight @ features[t, b].double().numpy() + recurrent_weight @ h + bias
            i, f, g, o = gates.reshape(4, size)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states[t, b] = h, c
    return states


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("length", "batch"), [(1, 4), (2, 1), (11, 3)])
def test_matches_a_slow_twin(length: int, batch: int, gradient: bool) -> None:
    torch.manual_seed(length)
    core = LstmCore(5, 6)
    features, state = 2 * torch.randn(length, batch, 5), torch.randn(batch, core.state_size)
    first = torch.rand(length, batch) < 0.3
    given = [tensor.clone() for tensor in (features, first, state)]
    with torch.set_grad_enabled(gradient):
        outputs, new_state = core(features, first, state)
    assert all(map(torch.equal, (features, first, state), given))
    expected = torch.from_numpy(step_slowly(core, features, first, state)).float()
    torch.testing.assert_close(outputs.detach(), expected[:, :, 0])
    torch.testing.assert_close(new_state.detach(), expected[-1].flatten(1))
    assert outputs.requires_grad == new_state.requires_grad == gradient


@pytest.mark.parametrize(("length", "batch"), [(1, 2), (2, 1), (5, 2)])
def test_the_gradient_is_that_of_small_differences(length: int, batch: int) -> None:
    torch.manual_seed(length)
    core = LstmCore(3, 4).double()
    first = torch.rand(length, batch) < 0.3
    names = [name for name, _ in core.named_parameters()]

    def run(features: Tensor, state: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        by_name = dict(zip(names, parameters, strict=True))
        result: tuple[Tensor, Tensor] = functional_call(core, by_name, (features, first, state))
        return result

    features = torch.randn(length, batch, 3, dtype=torch.double, requires_grad=True)
    state = torch.randn(batch, core.state_size, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(run, (features, state, *core.parameters()))


def test_the_gradient_without_resets_is_that_of_torch() -> None:
    core = LstmCore(5, 7)
    lstm = torch_lstm(core)
    features = torch.randn(9, 4, 5, requires_grad=True)
    state = torch.randn(4, core.state_size, requires_grad=True)
    weights = torch.randn(9, 4, 7)
    first = torch.zeros(9, 4, dtype=torch.bool)
    found, expected = (
        torch.autograd.grad((outputs * weights).sum() + new_state.square().sum(), [
            features, state, *parameters,
        ])
        for (outputs, new_state), parameters in (
            (core(features, first, state), core.parameters()),
            (
                run_torch(lstm, features, state),
                (lstm.weight_ih_l0, lstm.bias_ih_l0, lstm.weight_hh_l0),
            ),
        )
    )  # fmt: skip
    torch.testing.assert_close(found, expected)


def test_the_gradient_may_be_asked_for_again() -> None:
    core = LstmCore(3, 4)
    first = torch.rand(5, 2) < 0.3
    outputs, _ = core(torch.randn(5, 2, 3), first, torch.randn(2, core.state_size))
    parameters = list(core.parameters())
    once = torch.autograd.grad(outputs.sum(), parameters, retain_graph=True)
    again = torch.autograd.grad(outputs.sum(), parameters)
    torch.testing.assert_close(once, again, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_products_in_bfloat16_and_the_rest_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    core = LstmCore(5, 16)
    features = torch.randn(8, 3, 5).to(dtype).requires_grad_()
    first, state = torch.rand(8, 3) < 0.2, torch.randn(3, core.state_size)
    parameters = list(core.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        outputs, new_state = core(features, first, state)
        gradients = torch.autograd.grad(outputs.square().sum(), [*parameters, features])
    exact, exact_state = core(features.float(), first, state)
    assert outputs.dtype == new_state.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [*[torch.float32] * 3, dtype]
    # Rounded to eight bits, and so not equal.
    assert not torch.equal(outputs, exact)
    torch.testing.assert_close(outputs, exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(new_state, exact_state, rtol=0.02, atol=0.02)
    expected = torch.autograd.grad(exact.square().sum(), parameters)
    for gradient, other in zip(gradients, expected, strict=False):
        assert (gradient - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("gradient", [False, True])
def test_autocast_leaves_cells_exact(gradient: bool) -> None:
    """What is added in small steps would be lost if the sum were rounded to eight bits."""
    core = LstmCore(1, 1)
    steps = 128
    with torch.no_grad():
        core.input.weight.zero_()
        core.recurrent.weight.zero_()
        # i and f are 1, g is about 1/512.
        core.input.bias.copy_(torch.tensor([30.0, 30.0, 1 / 512, 0.0]))
    state = torch.tensor([[0.0, 1.0]])
    row, first = torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradient):
        _, at_once = core(row.expand(steps, 1, 1), first.expand(steps, 1), state)
        one_by_one = state
        for _ in range(steps):
            _, one_by_one = core(row, first, one_by_one)
    torch.testing.assert_close(at_once[0, 1].item(), 1.25, rtol=1e-4, atol=0)
    torch.testing.assert_close(one_by_one, at_once)


@pytest.mark.parametrize("gradient", [False, True])
def test_autocast_leaves_what_is_kept_of_a_cell_exact(gradient: bool) -> None:
    core = LstmCore(1, 1)
    with torch.no_grad():
        core.input.bias.copy_(torch.tensor([-30.0, 3.0, 0.0, 0.0]))
    row, first = torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradient):
        _, new_state = core(row, first, torch.tensor([[0.0, 1.0]]))
    # Eight bits of it would be .953125.
    torch.testing.assert_close(new_state[0, 1].item(), 0.952574, rtol=1e-5, atol=0)


class NoLooking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what reads values back to the host, which a CUDA graph cannot."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        assert torch.Tag.data_dependent_output not in func.tags
        assert torch.Tag.dynamic_output_shape not in func.tags
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("length", [1, 4])
def test_looks_at_no_value(length: int) -> None:
    core = LstmCore(2, 3)
    features, first = torch.randn(length, 2, 2), torch.rand(length, 2) < 0.5
    state = torch.randn(2, core.state_size)
    looking = NoLooking()  # type: ignore[no-untyped-call]
    with looking:
        outputs, _ = core(features, first, state)
        outputs.sum().backward()
        with torch.no_grad():
            core(features, first, state)
    with pytest.raises(AssertionError), looking:
        first.any().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_graph_gives_the_same_gradients(bfloat16: bool) -> None:
    device = torch.device("cuda")
    core = LstmCore(5, 8).to(device)
    features, state = torch.randn(6, 3, 5, device=device), torch.randn(3, 16, device=device)
    first = torch.rand(6, 3, device=device) < 0.3

    def run() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
            outputs, new_state = core(features, first, state)
        loss = outputs.square().sum() + new_state.sum()
        return [outputs.detach(), *torch.autograd.grad(loss, list(core.parameters()))]

    with own_stream(device):
        graph = CapturedCall(run, device, capture=True, field="field")
        for _ in range(6):
            features.normal_()
            first.logical_not_()
            found = [tensor.clone() for tensor in graph()]
            # Captured products may be summed in another order, or round to the next bfloat16.
            torch.testing.assert_close(found, run(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("given", "added"), [((), 1.0), ((3.0,), 3.0)])
def test_forget_gate_starts_open(given: tuple[float, ...], added: float) -> None:
    core = LstmCore(2, 16, *given)
    input_bias, forget_bias, *_ = core.input.bias.detach().chunk(4)
    assert input_bias.abs().max() <= 0.25
    assert (forget_bias - added).abs().max() <= 0.25
