"""Torsos for images: [N, C, H, W] in, features [N, output_size] float32 out.

C counts the stacked frames' channels: frame_stack times the channels of one frame. Images are
multiplied by `scale`, one number or one for each channel `[C]`; without it uint8 images are taken
as value / 255, all others as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seed.networks.mlp import orthogonal
from seed.networks.scaling import LARGEST_PIXEL, keep_scale

# (output channels, kernel, stride) of each convolution; none is padded.
Convolutions = tuple[tuple[int, int, int], ...]
NATURE: Convolutions = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
IMPALA_SHALLOW: Convolutions = ((16, 8, 4), (32, 4, 2))
IMPALA_DEEP_SECTIONS = (16, 32, 32)


class NatureTorso(nn.Module):
    """The network of "Human-level control" (Mnih et al. 2015).

    Convolutions 32 8x8/4, 64 4x4/2, 64 3x3/1, then Dense 512, each followed by ReLU.
    Initialisation: orthogonal with gain sqrt(2), biases zero. Raises ValueError when the image
    is under 36x36.
    """

    output_size = 512

    def __init__(
        self, channels: int, height: int, width: int, scale: float | Tensor | None = None
    ) -> None:
        """Reads images [N, channels, height, width], channels of all stacked frames together."""
        super().__init__()
        self.layers = _convolutional_layers(
            "nature", NATURE, self.output_size, (channels, height, width), scale
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 512] float32 of `images` [N, C, H, W] uint8 or float32."""
        features: Tensor = self.layers(images)
        return features


class ImpalaShallowTorso(nn.Module):
    """The shallow network of IMPALA (Espeholt et al. 2018, figure 3, left) without its LSTM.

    Convolutions 16 8x8/4, 32 4x4/2, then Dense 256, each followed by ReLU. Initialisation:
    orthogonal with gain sqrt(2), biases zero. Raises ValueError when the image is under 20x20.
    """

    output_size = 256

    def __init__(
        self, channels: int, height: int, width: int, scale: float | Tensor | None = None
    ) -> None:
        """Reads images [N, channels, height, width], channels of all stacked frames together."""
        super().__init__()
        self.layers = _convolutional_layers(
            "impala_shallow", IMPALA_SHALLOW, self.output_size, (channels, height, width), scale
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 256] float32 of `images` [N, C, H, W] uint8 or float32."""
        features: Tensor = self.layers(images)
        return features


class ImpalaDeepTorso(nn.Module):
    """The deep residual network of IMPALA (Espeholt et al. 2018, figure 3, right).

    Three sections of 16, 32 and 32 channels: convolution 3x3, max pooling 3x3/2, two residual
    blocks. Then ReLU, Dense 256, ReLU. Initialisation: torch's default. Raises ValueError when
    the image is empty.
    """

    output_size = 256

    def __init__(
        self, channels: int, height: int, width: int, scale: float | Tensor | None = None
    ) -> None:
        """Reads images [N, channels, height, width], channels of all stacked frames together."""
        super().__init__()
        _check_image_size("impala_deep", height, width)
        layers: list[nn.Module] = []
        for section, section_channels in enumerate(IMPALA_DEEP_SECTIONS):
            convolution = partial(ScaledConv2d, scale=scale) if section == 0 else nn.Conv2d
            layers += [
                convolution(channels, section_channels, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                ResidualBlock(section_channels),
                ResidualBlock(section_channels),
            ]
            channels = section_channels
            height, width = (height + 1) // 2, (width + 1) // 2
        flat_size = channels * height * width
        layers += [nn.ReLU(), nn.Flatten(), nn.Linear(flat_size, self.output_size), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 256] float32 of `images` [N, C, H, W] uint8 or float32."""
        features: Tensor = self.layers(images)
        return features


class ResidualBlock(nn.Module):
    """x + convolution(ReLU(convolution(ReLU(x)))) with 3x3 kernels and unchanged size."""

    def __init__(self, channels: int) -> None:
        """Reads and returns so many channels."""
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the block's output, of the same shape as `inputs` [N, C, H, W] float32."""
        # Not in place: the block's own input is still needed for the sum.
        hidden = self.first(functional.relu(inputs))
        outputs: Tensor = inputs + self.second(functional.relu(hidden))
        return outputs


class ScaledConv2d(nn.Conv2d):
    """A first layer: a convolution of scaled images; see the top of this file."""

    def __init__(self, *args: Any, scale: float | Tensor | None = None, **kwargs: Any) -> None:
        """Takes torch's arguments, and the scale."""
        super().__init__(*args, **kwargs)
        if isinstance(scale, Tensor):
            scale = scale.view(-1, 1, 1)  # [C, 1, 1] float32
        self.scale: float | Tensor | None
        keep_scale(self, scale)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution [N, C', H', W'] float32 of `input` [N, C, H, W]."""
        # Scaling the small weight spares a pass over the large images.
        scale = self.scale
        if scale is None:
            scale = 1 / LARGEST_PIXEL if input.dtype == torch.uint8 else 1.0
        weight = self.weight if isinstance(scale, float) and scale == 1 else self.weight * scale
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            # At once to what the convolution computes in: no pass over large float32 images.
            images = input.to(torch.get_autocast_dtype(kind))
        elif torch.is_grad_enabled():
            # Gradients of float32 images are faster this way, forward passes alone are slower.
            images = input.to(self.weight.dtype, memory_format=torch.channels_last)
        else:
            images = input.to(self.weight.dtype)
        return functional.conv2d(images, weight, self.bias, self.stride, self.padding)


def smallest_image_size(convolutions: Convolutions) -> int:
    """Return the least height and width, in pixels, that leaves one output of every layer."""
    size = 1
    for _, kernel, stride in reversed(convolutions):
        size = (size - 1) * stride + kernel
    return size


def _convolutional_layers(
    torso: str,
    convolutions: Convolutions,
    output_size: int,
    image_shape: tuple[int, int, int],
    scale: float | Tensor | None,
) -> nn.Sequential:
    channels, height, width = image_shape
    _check_image_size(torso, height, width)
    layers: list[nn.Module] = []
    for position, (output_channels, kernel, stride) in enumerate(convolutions):
        convolution = partial(ScaledConv2d, scale=scale) if position == 0 else nn.Conv2d
        layers += [orthogonal(convolution(channels, output_channels, kernel, stride)), nn.ReLU()]
        channels = output_channels
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    dense = orthogonal(nn.Linear(channels * height * width, output_size))
    return nn.Sequential(*layers, nn.Flatten(), dense, nn.ReLU())


SMALLEST_IMAGES = {
    "nature": smallest_image_size(NATURE),
    "impala_shallow": smallest_image_size(IMPALA_SHALLOW),
    "impala_deep": 1,
}
"""Least height and width, in pixels, that each torso takes."""


def _check_image_size(torso: str, height: int, width: int) -> None:
    size, smallest = min(height, width), SMALLEST_IMAGES[torso]
    if size < smallest:
        fitting = [f'"{name}"' for name, least in SMALLEST_IMAGES.items() if least <= size]
        raise ValueError(
            f'torso "{torso}" needs images of at least {smallest}x{smallest} pixels, got '
            f"{height}x{width}; use torso {', '.join(fitting)} or \"mlp\", or larger images"
        )
