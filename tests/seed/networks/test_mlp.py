"""The MLP torso and the encodings it shares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seed.networks.mlp import MlpTorso, one_hot, orthogonal
from seed.wire.spaces import SpaceSpec


def test_one_hot_marks_the_index_and_nothing_outside() -> None:
    encoded = one_hot(torch.tensor([[2, 0], [-1, 3]]), 3)
    assert encoded.dtype == torch.float32
    assert encoded.tolist() == [[[0, 0, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]]


def test_orthogonal_rows_have_the_gain_as_length() -> None:
    layer = nn.Linear(9, 4)
    assert orthogonal(layer, gain=3.0) is layer
    torch.testing.assert_close(layer.weight @ layer.weight.t(), 9 * torch.eye(4))
    assert not layer.bias.any()


def test_matches_its_layers_written_out() -> None:
    torso = MlpTorso(SpaceSpec("float32", (3, 2)), 2, (7, 5))
    observations = torch.randn(4, 2, 3, 2)
    first, second = (layer for layer in torso.layers if isinstance(layer, nn.Linear))
    hidden = torch.tanh(observations.reshape(4, 12) @ first.weight.t() + first.bias)
    expected = torch.tanh(hidden @ second.weight.t() + second.bias)
    assert torso.output_size == 5
    torch.testing.assert_close(torso(observations), expected)


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255.0), ("float32", 1.0), ("int64", 1.0)])
def test_scales_bytes_only(dtype: str, scale: float) -> None:
    torso = MlpTorso(SpaceSpec(dtype, (4,)), 1, ())
    observations = torch.tensor([[0, 51, 102, 255]], dtype=getattr(torch, dtype))
    assert torso.output_size == 4
    torch.testing.assert_close(
        torso(observations), torch.tensor([[0.0, 51.0, 102.0, 255.0]]) / scale
    )


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_discrete_observations_are_one_hot(frame_stack: int) -> None:
    torso = MlpTorso(SpaceSpec("int64", (), 4), frame_stack, ())
    shape = (5, frame_stack) if frame_stack > 1 else (5,)
    observations = torch.randint(4, shape)
    assert torso.output_size == frame_stack * 4
    features = torso(observations)
    assert torch.equal(
        features.reshape(5, frame_stack, 4).argmax(-1), observations.reshape(5, frame_stack)
    )
    assert torch.equal(features.sum(-1), torch.full((5,), float(frame_stack)))


def test_a_scalar_observation_keeps_its_rows() -> None:
    torso = MlpTorso(SpaceSpec("float32", ()), 1, (3,))
    assert torso(torch.randn(6)).shape == (6, 3)


def test_starts_with_gain_sqrt_2() -> None:
    torso = MlpTorso(SpaceSpec("float32", (8,)), 1, (4,))
    weight = torso.layers[0].weight
    assert isinstance(weight, torch.Tensor)
    lengths = weight.detach().norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((4,), math.sqrt(2)))
