"""The LSTM core against torch's own LSTM, whole and per episode."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from seed.networks.recurrent import LstmCore


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


@pytest.mark.parametrize(("length", "batch"), [(1, 1), (1, 6), (9, 4)])
def test_matches_torch_without_resets(length: int, batch: int) -> None:
    core = LstmCore(5, 7)
    features, state = torch.randn(length, batch, 5), torch.randn(batch, core.state_size)
    first = torch.zeros(length, batch, dtype=torch.bool)
    outputs, new_state = core(features, first, state)
    expected_outputs, expected_state = run_torch(torch_lstm(core), features, state)
    torch.testing.assert_close(outputs, expected_outputs)
    torch.testing.assert_close(new_state, expected_state)


@pytest.mark.parametrize("seed", range(4))
def test_resets_match_one_run_per_episode(seed: int) -> None:
    torch.manual_seed(seed)
    length, batch = 12, 5
    core = LstmCore(3, 4)
    lstm = torch_lstm(core)
    features, state = torch.randn(length, batch, 3), torch.randn(batch, core.state_size)
    first = torch.rand(length, batch) < 0.3
    first[0, 0], first[0, 1] = True, False
    outputs, new_state = core(features, first, state)
    for b in range(batch):
        starts = first[:, b].nonzero().flatten().tolist()
        bounds = sorted({0, *starts, length})
        for begin, end in pairwise(bounds):
            before = torch.zeros_like(state[b]) if first[begin, b] else state[b]
            expected, after = run_torch(lstm, features[begin:end, b : b + 1], before[None])
            torch.testing.assert_close(outputs[begin:end, b : b + 1], expected)
        torch.testing.assert_close(new_state[b : b + 1], after)


def test_no_gradient_crosses_a_reset() -> None:
    core = LstmCore(2, 3)
    features = torch.randn(4, 1, 2, requires_grad=True)
    state = torch.randn(1, core.state_size, requires_grad=True)
    first = torch.tensor([[False], [False], [True], [False]])
    outputs, _ = core(features, first, state)
    gradients = torch.autograd.grad(outputs[3].sum(), [features, state])
    assert gradients[0][2:].any()
    assert not gradients[0][:2].any()
    assert not gradients[1].any()


def test_leaves_the_given_state_alone() -> None:
    core = LstmCore(2, 3)
    state = torch.ones(2, core.state_size)
    core(torch.randn(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), state)
    assert torch.equal(state, torch.ones(2, 6))


@pytest.mark.parametrize(("given", "added"), [((), 1.0), ((3.0,), 3.0)])
def test_forget_gate_starts_open(given: tuple[float, ...], added: float) -> None:
    core = LstmCore(2, 16, *given)
    input_bias, forget_bias, *_ = core.input.bias.detach().chunk(4)
    assert input_bias.abs().max() <= 0.25
    assert (forget_bias - added).abs().max() <= 0.25
