"""How an observation is laid out as an image: which axes are pixels, which are channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from seed.wire.spaces import SpaceSpec

Order = Literal["hw", "hwc", "chw", "shwc", "schw", "hwcs"]

_CHANNELS_OF_PICTURES = (1, 3, 4)
# By the number of axes: layouts in the order in which they are preferred, if all else is equal.
_ORDERS: dict[int, tuple[Order, ...]] = {
    2: ("hw",), 3: ("hwc", "chw"), 4: ("shwc", "schw", "hwcs")
}  # fmt: skip


class ImageLayout(NamedTuple):
    """Where one frame keeps its channels.

    Attributes:
        channels: Of one frame; those of all pictures in a stack that the environment made.
        height: Pixels.
        width: Pixels.
        order: The axes: h and w are pixels, c channels, s pictures of a stack.
    """

    channels: int
    height: int
    width: int
    order: Order

    def to_channels_first(self, frames: Tensor) -> Tensor:
        """Return `frames` [N, stack, *shape] as images [N, stack * channels, H, W]."""
        axes = [2 + self.order.index(axis) for axis in "schw" if axis in self.order]
        return frames.permute(0, 1, *axes).flatten(1, -3)

    def scale_of_channels(
        self, scale: float | Tensor, shape: tuple[int, ...], frame_stack: int
    ) -> float | Tensor:
        """Return the factor of each channel of the images, [stack * channels] float32.

        scale: a factor for all, which is returned as it is, or for each place of the last axis.
        shape: of one frame.
        """
        if not isinstance(scale, Tensor):
            return scale
        images = self.to_channels_first(scale.expand(1, frame_stack, *shape))
        return images[0].amin(dim=(1, 2))


def image_layout(observation: SpaceSpec) -> ImageLayout | None:
    """Return how `observation` is laid out as an image, or None where it is not one.

    (H, W); (H, W, C) or (C, H, W); and with a stack of S pictures (S, H, W, C), (S, C, H, W) or
    (H, W, C, S). 1, 3 or 4 at an end of three axes are channels, first of all at the last one.
    Otherwise pixels are the two neighbouring axes that are the largest, or the same if that leaves
    a choice. Three axes that are told apart by neither are no image.
    """
    shape = observation.shape
    if observation.n is not None or len(shape) not in _ORDERS:
        return None
    for order in _ORDERS[3] if len(shape) == 3 else ():
        if shape[order.index("c")] in _CHANNELS_OF_PICTURES:
            return _layout(shape, order)
    ranks = {order: _rank(shape, order) for order in _ORDERS[len(shape)]}
    best = [order for order, rank in ranks.items() if rank == max(ranks.values())]
    pixels_are_clear = len(best) == 1 or ranks[best[0]][1]
    return _layout(shape, best[0]) if pixels_are_clear else None


def _rank(shape: tuple[int, ...], order: Order) -> tuple[int, bool]:
    """How much like pixels the two axes look that an order takes for them."""
    first = order.index("h")
    height, width = shape[first : first + 2]
    return min(height, width), height == width


def _layout(shape: tuple[int, ...], order: Order) -> ImageLayout:
    first = order.index("h")
    height, width = shape[first : first + 2]
    return ImageLayout(math.prod(shape) // (height * width), height, width, order)
