"""The image torsos against their layers written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seed.networks.atari import (
    IMPALA_SHALLOW,
    NATURE,
    ImpalaDeepTorso,
    ImpalaShallowTorso,
    NatureTorso,
    smallest_image_size,
)

Torso = NatureTorso | ImpalaShallowTorso | ImpalaDeepTorso
TORSOS: list[type[Torso]] = [NatureTorso, ImpalaShallowTorso, ImpalaDeepTorso]


def random_images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def layers_of(torso: Torso, kind: type[nn.Conv2d] | type[nn.Linear]) -> list[tuple[Tensor, Tensor]]:
    """The weight and the bias of every layer of one kind, in order."""
    return [(m.weight, m.bias) for m in torso.modules() if isinstance(m, kind)]  # type: ignore[misc]


def plain_convolutions(torso: Torso, images: Tensor, strides: tuple[int, ...]) -> Tensor:
    hidden = images.float() / 255
    weights = layers_of(torso, nn.Conv2d)
    for (weight, bias), stride in zip(weights, strides, strict=True):
        hidden = functional.relu(functional.conv2d(hidden, weight, bias, stride))
    ((weight, bias),) = layers_of(torso, nn.Linear)
    return functional.relu(functional.linear(hidden.flatten(1), weight, bias))


def test_nature_matches_the_paper() -> None:
    torso = NatureTorso(4, 84, 84)
    shapes = [tuple(weight.shape) for weight, _ in layers_of(torso, nn.Conv2d)]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)]
    assert [tuple(weight.shape) for weight, _ in layers_of(torso, nn.Linear)] == [(512, 3136)]
    images = random_images(2, 4, 84, 84)
    torch.testing.assert_close(torso(images), plain_convolutions(torso, images, (4, 2, 1)))


def test_impala_shallow_matches_the_paper() -> None:
    torso = ImpalaShallowTorso(4, 84, 84)
    shapes = [tuple(weight.shape) for weight, _ in layers_of(torso, nn.Conv2d)]
    assert shapes == [(16, 4, 8, 8), (32, 16, 4, 4)]
    assert [tuple(weight.shape) for weight, _ in layers_of(torso, nn.Linear)] == [(256, 2592)]
    images = random_images(2, 4, 84, 84)
    torch.testing.assert_close(torso(images), plain_convolutions(torso, images, (4, 2)))


def test_impala_deep_matches_the_paper() -> None:
    torso = ImpalaDeepTorso(3, 72, 96)
    convolutions = iter(layers_of(torso, nn.Conv2d))

    def convolve(inputs: Tensor) -> Tensor:
        weight, bias = next(convolutions)
        assert weight.shape[2:] == (3, 3)
        return functional.conv2d(inputs, weight, bias, padding=1)

    images = random_images(2, 3, 72, 96)
    hidden = images.float() / 255
    for channels in (16, 32, 32):
        hidden = functional.max_pool2d(convolve(hidden), 3, 2, padding=1)
        assert hidden.shape[1] == channels
        for _ in range(2):
            hidden = hidden + convolve(functional.relu(convolve(functional.relu(hidden))))
    assert next(convolutions, None) is None
    ((weight, bias),) = layers_of(torso, nn.Linear)
    expected = functional.relu(functional.linear(functional.relu(hidden).flatten(1), weight, bias))
    torch.testing.assert_close(torso(images), expected)


@pytest.mark.parametrize("torso_class", TORSOS)
def test_float_images_are_not_divided(torso_class: type[Torso]) -> None:
    torso = torso_class(1, 40, 44)
    images = random_images(2, 1, 40, 44)
    torch.testing.assert_close(torso(images), torso(images.float() / 255))
    assert not torch.allclose(torso(images), torso(images.float()))


@pytest.mark.parametrize("torso_class", TORSOS)
def test_gradient_reaches_every_weight(torso_class: type[Torso]) -> None:
    torso = torso_class(2, 40, 44)
    torso(random_images(8, 2, 40, 44)).square().sum().backward()
    for name, parameter in torso.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_smallest_sizes() -> None:
    assert smallest_image_size(NATURE) == 36
    assert smallest_image_size(IMPALA_SHALLOW) == 20


@pytest.mark.parametrize(("torso_class", "smallest"), list(zip(TORSOS, (36, 20, 1), strict=True)))
def test_works_down_to_the_smallest_size_only(torso_class: type[Torso], smallest: int) -> None:
    torso = torso_class(1, smallest, smallest + 1)
    images = random_images(3, 1, smallest, smallest + 1)
    assert torso(images).shape == (3, torso.output_size)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels, got"):
        torso_class(1, smallest, smallest - 1)
