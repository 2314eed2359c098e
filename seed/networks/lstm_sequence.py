"""An LSTM over a whole sequence with resets, whose gradient is written out.

With the equations of `seed.networks.recurrent` let dx be the gradient of the loss by x. From the
last row to the first, where dh_t and dc_t come from what followed row t:

    dc_t    += dh_t o (1 - tanh(c_t)^2)
    di, df, dg = dc_t (g i (1 - i), c_{t-1} f (1 - f), i (1 - g^2))
    do       = dh_t tanh(c_t) o (1 - o)
    dc_{t-1} = dc_t f
    dh_{t-1} = U^T (di, df, dg, do) + what came to h_{t-1} from outside

with i, f, o the gates after their sigmoid and g after its tanh. All that multiplies dc_t and dh_t
is known beforehand and computed for all rows at once. What is left per row is one product and a few
operations on its result, and the weights' gradients are one product each for all rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Kept(NamedTuple):
    """What the forward pass leaves for the gradient; all but `hidden` in the state's dtype.

    gates: [T, B, 4H] i, f and o after their sigmoid; in the place of g, nothing of use.
    candidates: [T, B, H], g after its tanh.
    cells: [T + 1, B, H], c from the row before the first on.
    squashed: [T, B, H], tanh of the cells after each row.
    hidden: [T, B, H] in the products' dtype, h before each row, zero where an episode starts.
    keeps: [T, B, 1], 0 where an episode starts, else 1.
    """

    gates: Tensor
    candidates: Tensor
    cells: Tensor
    squashed: Tensor
    hidden: Tensor
    keeps: Tensor


def lstm_sequence(
    features: Tensor,
    first: Tensor,
    state: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return h of all rows, [T, B, H], and the state after the last, [B, 2H]; the state's dtype.

    The products are computed in the dtype of the features and weights, or in autocast's where that
    is on; the bias is added, and the rest computed, in the state's dtype. Nothing is read back from
    a GPU. The gradient has no gradient of its own.

    features: [T, B, input_size], T at least 1.
    first: [T, B] bool, true where the state is zero before the row.
    state: [B, 2H] float32 (or float64): h, then c, before row 0.
    input_weight: [4H, input_size], of the gates i, f, g, o in this order.
    bias: [4H] in the state's dtype.
    recurrent_weight: [4H, H].
    """
    kind = features.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        features, input_weight, recurrent_weight = (
            tensor.to(dtype) for tensor in (features, input_weight, recurrent_weight)
        )
    arguments = (features, first, state, input_weight, bias, recurrent_weight)
    if torch.is_grad_enabled():
        outputs: tuple[Tensor, Tensor] = _LstmSequence.apply(*arguments)  # type: ignore[no-untyped-call]
        return outputs
    outputs_and_state, _ = _run(*arguments, keep=False)
    return outputs_and_state


class _LstmSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        outputs_and_state, kept = _run(*arguments, keep=True)
        features, _, _, input_weight, _, recurrent_weight = arguments
        ctx.save_for_backward(features, input_weight, recurrent_weight, *kept)
        return outputs_and_state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, input_weight, recurrent_weight, *tensors = ctx.saved_tensors
        kept = _Kept(*tensors)
        with torch.autocast(features.device.type, enabled=False):
            by_gates, by_state = _run_back(kept, recurrent_weight, *gradients)
            by_rows = by_gates.flatten(0, 1)  # [T * B, 4H]
            by_features = by_input_weight = None
            if ctx.needs_input_grad[0]:
                by_features = torch.mm(by_rows, input_weight).view_as(features)
            if ctx.needs_input_grad[3]:
                by_input_weight = torch.mm(by_rows.t(), features.flatten(0, 1))
            by_bias = by_rows.sum(0, dtype=kept.gates.dtype)
            by_recurrent_weight = torch.mm(by_rows.t(), kept.hidden.flatten(0, 1))
        return by_features, None, by_state, by_input_weight, by_bias, by_recurrent_weight


def _run(
    features: Tensor,
    first: Tensor,
    state: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_weight: Tensor,
    *,
    keep: bool,
) -> tuple[tuple[Tensor, Tensor], _Kept]:
    """Return what `lstm_sequence` does and, with `keep`, what its gradient needs."""
    (length, batch), size = first.shape, recurrent_weight.shape[1]

    def make_rows(like: Tensor, rows: int) -> Tensor:
        # What is not kept lies in the same memory for all rows.
        return like.new_empty(rows if keep else 1, batch, size).expand(rows, -1, -1)

    with torch.autocast(features.device.type, enabled=False):
        # One large product for all rows; only the product with h must wait for its row.
        gates = bias.repeat(length * batch, 1)  # [T * B, 4H] float32
        _add_product(gates, features.flatten(0, 1), input_weight.t())
        gates = gates.view(length, batch, -1)
        # A forget gate of exactly 0 drops the cell, and the gradient that would reach it.
        gates[..., size : 2 * size].masked_fill_(first.unsqueeze(-1), -torch.inf)
        keeps = first.logical_not().to(state.dtype).unsqueeze(-1)
        kept = _Kept(
            gates=gates,
            candidates=make_rows(state, length),
            cells=make_rows(state, length + 1),
            squashed=make_rows(state, length),
            hidden=make_rows(recurrent_weight, length),
            keeps=keeps,
        )
        outputs = state.new_empty(length, batch, size)
        _run_rows(kept, state, recurrent_weight.t(), outputs)
        return (outputs, torch.cat([outputs[-1], kept.cells[-1]], dim=-1)), kept


def _run_rows(kept: _Kept, state: Tensor, weight: Tensor, outputs: Tensor) -> None:
    """Fills what is empty in `kept`, and the outputs [T, B, H], row by row."""
    previous, cell = state.chunk(2, dim=-1)  # [B, H] float32 each
    kept.cells[0].copy_(cell)
    cells = kept.cells.unbind()
    i_gates, f_gates, g_gates, o_gates = (x.unbind() for x in kept.gates.chunk(4, dim=-1))
    candidates, squashed = kept.candidates.unbind(), kept.squashed.unbind()
    hidden, keeps = kept.hidden.unbind(), kept.keeps.unbind()
    rows = zip(kept.gates.unbind(), outputs.unbind(), strict=True)
    for t, (gates, output) in enumerate(rows):
        torch.mul(previous, keeps[t], out=hidden[t])
        _add_product(gates, hidden[t], weight)
        torch.tanh(g_gates[t], out=candidates[t])
        # The sigmoid of all four gates is one operation, that of three would be two.
        gates.sigmoid_()
        torch.mul(f_gates[t], cells[t], out=cells[t + 1])
        cells[t + 1].addcmul_(i_gates[t], candidates[t])
        torch.tanh(cells[t + 1], out=squashed[t])
        torch.mul(o_gates[t], squashed[t], out=output)
        previous = output


def _run_back(
    kept: _Kept, weight: Tensor, by_outputs: Tensor, by_last_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients by the gates before sigmoid and tanh, [T, B, 4H], and by the state.

    The former are in the products' dtype, the latter in the state's.
    """
    factors, cell_factors = _known_factors(kept)
    # Each factor is read once, just before its gradient takes its place if both have one dtype.
    by_gates = factors.to(weight.dtype)
    by_h, by_c = by_last_state.chunk(2, dim=-1)  # [B, H] float32 each
    by_h = by_outputs[-1] + by_h
    by_c = by_c.clone()
    by_c_of_three = by_c.unsqueeze(1)  # [B, 1, H] float32, the same memory
    # What came to h from outside; h before the first row is no output.
    arriving = [torch.zeros_like(by_h), *by_outputs[:-1].unbind()]
    rows = by_gates.unbind()
    by_three, by_o = _split(by_gates)
    three, o = _split(factors)
    cell = cell_factors.unbind()
    f_gates, keeps = kept.gates.chunk(4, dim=-1)[1].unbind(), kept.keeps.unbind()
    for t in reversed(range(len(rows))):
        by_c.addcmul_(by_h, cell[t])
        torch.mul(by_c_of_three, three[t], out=by_three[t])
        torch.mul(by_h, o[t], out=by_o[t])
        by_c.mul_(f_gates[t])
        product = torch.mm(rows[t], weight).to(by_h.dtype)
        by_h = torch.addcmul(arriving[t], product, keeps[t])
    return by_gates, torch.cat([by_h, by_c], dim=-1)


def _known_factors(kept: _Kept) -> tuple[Tensor, Tensor]:
    """Return what dc or dh of a row is multiplied by for its gates, [T, B, 4H], and for its cell.

    The latter is what dh is multiplied by for dc, [T, B, H].
    """
    g = kept.candidates
    i, _, _, o = kept.gates.chunk(4, dim=-1)
    # s - s^2, the derivative of the sigmoid; in the place of g, nothing of use. [T, B, 4H] float32
    factors = torch.addcmul(kept.gates, kept.gates, kept.gates, value=-1)
    by_i, by_f, by_g, by_o = factors.chunk(4, dim=-1)
    by_i.mul_(g)
    by_f.mul_(kept.cells[:-1])
    torch.addcmul(i, i * g, g, value=-1, out=by_g)
    by_o.mul_(kept.squashed)
    return factors, torch.addcmul(o, o * kept.squashed, kept.squashed, value=-1)


def _split(gates: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return views of each row's i, f and g, [B, 3, H], and of its o, [B, H]."""
    by_gate = gates.view(*gates.shape[:2], 4, -1)  # [T, B, 4, H]
    return by_gate[:, :, :3].unbind(), by_gate[:, :, 3].unbind()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right, whose dtype may be another, to `total`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right))
