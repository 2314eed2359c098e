"""The dueling head against its equation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seed.networks.dueling import DuelingHead


def run_stream(stream: nn.Sequential, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear, ReLU, Linear."""
    weights = [parameter.detach().double().numpy() for parameter in stream.parameters()]
    hidden = np.maximum(features @ weights[0].T + weights[1], 0.0)
    result: NDArray[np.float64] = hidden @ weights[2].T + weights[3]
    return result


def test_matches_the_equation() -> None:
    torch.manual_seed(0)
    head = DuelingHead(input_size=6, hidden_size=9, num_actions=4)
    features = torch.randn(3, 5, 6)
    actual = head(features)
    assert actual.shape == (3, 5, 4)
    assert actual.dtype == torch.float32
    for t in range(3):
        for b in range(5):
            row = features[t, b].double().numpy()
            values, advantages = run_stream(head.value, row), run_stream(head.advantage, row)
            assert (len(values), len(advantages)) == (1, 4)
            expected = [values[0] + advantage - sum(advantages) / 4 for advantage in advantages]
            np.testing.assert_allclose(actual[t, b].detach().numpy(), expected, atol=1e-5)


def test_the_mean_over_the_actions_is_the_value() -> None:
    head = DuelingHead(6, 9, 4)
    features = torch.randn(7, 6)
    torch.testing.assert_close(head(features).mean(dim=-1, keepdim=True), head.value(features))


def test_streams_have_the_asked_size_and_share_no_weight() -> None:
    head = DuelingHead(6, 9, 4)
    shapes = [tuple(parameter.shape) for parameter in head.parameters()]
    assert shapes == [(9, 6), (9,), (1, 9), (1,), (9, 6), (9,), (4, 9), (4,)]


def test_a_single_action_is_worth_the_value() -> None:
    head = DuelingHead(6, 9, 1)
    features = torch.randn(2, 6)
    torch.testing.assert_close(head(features), head.value(features))
