"""The LSTM core, with a state that is reset where an episode starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seed.networks.lstm_sequence import lstm_sequence


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
        """Reads `input_size` features a row and keeps `hidden_size` units."""
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
        if len(features) == 1 and not torch.is_grad_enabled():
            # Acting: one row alone is not worth what is set up for a sequence.
            return self._run_row(features[0], first[0], state)
        return lstm_sequence(
            features, first, state, self.input.weight, self.input.bias, self.recurrent.weight
        )

    def _run_row(self, features: Tensor, first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs [1, B, hidden_size] and the state after the row, without gradient."""
        size = self.output_size
        h, c = (state * first.logical_not().unsqueeze(-1)).chunk(2, dim=-1)
        gates = torch.addmm(self.input(features), h, self.recurrent.weight.t()).to(state.dtype)
        i_and_f = gates[:, : 2 * size].sigmoid_()  # [B, 2H] float32
        candidate = gates[:, 2 * size : 3 * size].tanh_()
        c = (i_and_f[:, size:] * c).addcmul_(i_and_f[:, :size], candidate)
        h = gates[:, 3 * size :].sigmoid_() * c.tanh()
        return h.unsqueeze(0), torch.cat([h, c], dim=-1)
