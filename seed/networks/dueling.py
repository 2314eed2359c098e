"""The dueling head of Q-networks (Wang et al. 2016)."""

from __future__ import annotations

from torch import Tensor, nn


class DuelingHead(nn.Module):
    """Action values from a value stream and an advantage stream (equation 9 of the paper):

        Q(x, a) = V(x) + A(x, a) - mean_b A(x, b)

    Each stream is Linear, ReLU, Linear. Initialisation: torch's default, under which the first
    values are near zero.
    """

    def __init__(self, input_size: int, hidden_size: int, num_actions: int) -> None:
        """`hidden_size` counts the units of each stream."""
        super().__init__()
        self.value = _stream(input_size, hidden_size, 1)
        self.advantage = _stream(input_size, hidden_size, num_actions)

    def forward(self, features: Tensor) -> Tensor:
        """Return Q [..., num_actions] float32 of `features` [..., input_size] float32."""
        values: Tensor = self.value(features)  # [..., 1] float32
        advantages: Tensor = self.advantage(features)  # [..., num_actions] float32
        return values + advantages - advantages.mean(dim=-1, keepdim=True)


def _stream(input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, output_size)
    )
