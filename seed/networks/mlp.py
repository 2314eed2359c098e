"""A torso for vectors, small grids and Discrete observations, and the encodings it needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from seed.networks.scaling import keep_scale, observation_scale

if TYPE_CHECKING:
    from seed.wire.spaces import SpaceSpec

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def one_hot(indices: Tensor, size: int) -> Tensor:
    """Return [..., size] float32: 1 at each index of `indices` [...] int64, 0 elsewhere.

    An index outside 0..size-1 gives a row of zeros.
    """
    # A comparison, because torch's own one-hot reads the indices back to check them.
    columns = torch.arange(size, device=indices.device)  # [size] int64
    return (indices.unsqueeze(-1) == columns).to(torch.float32)


def orthogonal(layer: Layer, gain: float = math.sqrt(2)) -> Layer:
    """Return `layer` itself with an orthogonal weight times `gain` and a bias of zero."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MlpTorso(nn.Module):
    """Flattens an observation, then one Linear and tanh per hidden size.

    Discrete observations are one-hot encoded, all others scaled by `observation_scale`.
    Initialisation: orthogonal with gain sqrt(2), biases zero.

    output_size: the last hidden size, or the flat observation's size without hidden sizes.
    """

    def __init__(
        self, observation: SpaceSpec, frame_stack: int, hidden_sizes: tuple[int, ...]
    ) -> None:
        """Reads `frame_stack` observations at a time; has a layer for each of `hidden_sizes`."""
        super().__init__()
        self._num_values = observation.n
        self.scale: float | Tensor
        keep_scale(self, observation_scale(observation))
        size = frame_stack * math.prod(observation.shape) * (observation.n or 1)
        layers: list[nn.Module] = []
        for hidden_size in hidden_sizes:
            layers += [orthogonal(nn.Linear(size, hidden_size)), nn.Tanh()]
            size = hidden_size
        self.layers = nn.Sequential(*layers)
        self.output_size = size

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [N, output_size] float32 of `observations` [N, ...]."""
        if self._num_values is not None:
            inputs = one_hot(observations, self._num_values)
        else:
            inputs = observations.to(torch.float32) * self.scale
        # The rows are counted here, because a scalar observation has no axis to flatten.
        features: Tensor = self.layers(inputs.reshape(observations.shape[0], -1))
        return features
