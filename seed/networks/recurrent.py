"""The LSTM core, with a state that is reset where an episode starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LstmCore(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber 1997) over rows, in torch's own equations:

        i, f, g, o = split(W x_t + U h_{t-1} + b)
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
        h_t = sigmoid(o) tanh(c_t)

    The state is one tensor [B, 2 * hidden_size] float32: h, then c. Initialisation: torch's
    default, uniform within 1/sqrt(hidden_size), and `forget_bias` added to the forget gate's bias
    so that the memory is kept from the start (Jozefowicz et al. 2015); SEED's cells add 1. What is
    kept of it decays by sigmoid(forget_bias) a row, .73 for 1 and .95 for 3.

    output_size: hidden_size. state_size: 2 * hidden_size.
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_size = 2 * hidden_size
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.input.bias[hidden_size : 2 * hidden_size] += forget_bias

    def forward(self, features: Tensor, first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs [T, B, hidden_size] and the state after the last row.

        features: [T, B, input_size] float32.
        first: [T, B] bool, true where row t starts an episode; the state is zero before it.
        state: [B, 2 * hidden_size] float32, the state before row 0.
        """
        # One large product for all rows; only the product with h must wait for its row.
        projections = self.input(features).unbind()  # T of [B, 4H] float32
        keeps = first.logical_not().to(state.dtype).unsqueeze(-1).unbind()  # T of [B, 1] float32
        recurrent_weight = self.recurrent.weight.t()
        size = self.output_size
        h, c = state.chunk(2, dim=-1)
        outputs: list[Tensor] = []
        for projection, keep in zip(projections, keeps, strict=True):
            gates = torch.addmm(projection, h * keep, recurrent_weight)  # [B, 4H] float32
            input_gate, forget_gate = gates[:, : 2 * size].sigmoid().chunk(2, dim=-1)
            candidate = gates[:, 2 * size : 3 * size].tanh()
            c = torch.addcmul(forget_gate * (c * keep), input_gate, candidate)
            h = gates[:, 3 * size :].sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), torch.cat([h, c], dim=-1)
