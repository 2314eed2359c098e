"""Layouts of images, and frames brought into the one that torsos read."""

from __future__ import annotations

import pytest
import torch

from seed.networks.images import ImageLayout, image_layout
from seed.wire.spaces import SpaceSpec


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 90), (1, 84, 90, "hw")),
        # 1, 3 and 4 at an end are channels, first of all at the last axis.
        ((84, 90, 3), (3, 84, 90, "hwc")),
        ((84, 90, 1), (1, 84, 90, "hwc")),
        ((4, 84, 90), (4, 84, 90, "chw")),
        ((4, 84, 3), (3, 4, 84, "hwc")),
        # Any number of them where the other two axes are larger ...
        ((84, 84, 2), (2, 84, 84, "hwc")),
        ((84, 90, 6), (6, 84, 90, "hwc")),
        ((210, 160, 12), (12, 210, 160, "hwc")),
        ((17, 64, 64), (17, 64, 64, "chw")),
        ((12, 210, 160), (12, 210, 160, "chw")),
        # ... or the same.
        ((8, 8, 111), (111, 8, 8, "hwc")),
        ((111, 8, 8), (111, 8, 8, "chw")),
        ((10, 10, 10), (10, 10, 10, "hwc")),
        ((50, 40, 60), None),
        # Stacks.
        ((4, 84, 84, 3), (12, 84, 84, "shwc")),
        ((4, 3, 84, 84), (12, 84, 84, "schw")),
        ((84, 84, 3, 4), (12, 84, 84, "hwcs")),
        ((4, 210, 160, 3), (12, 210, 160, "shwc")),
        ((4,), None),
        ((), None),
        ((2, 3, 4, 5, 6), None),
    ],
)
def test_image_layout(
    shape: tuple[int, ...], expected: tuple[int, int, int, str] | None
) -> None:
    assert image_layout(SpaceSpec("uint8", shape)) == expected


def test_a_discrete_space_is_no_image() -> None:
    assert image_layout(SpaceSpec("int64", (), 9)) is None


@pytest.mark.parametrize(
    ("shape", "order"),
    [((5, 6), "hw"), ((5, 6, 3), "hwc"), ((3, 5, 6), "chw"), ((2, 5, 6, 3), "shwc"),
     ((2, 3, 5, 6), "schw"), ((5, 6, 3, 2), "hwcs")],
)  # fmt: skip
def test_frames_become_channels(shape: tuple[int, ...], order: str) -> None:
    """Channel by channel: the frame stack's frames, in them the pictures, in them the channels."""
    layout = image_layout(SpaceSpec("uint8", shape))
    assert layout is not None
    assert layout.order == order
    frames = torch.randint(256, (7, 4, *shape))
    images = layout.to_channels_first(frames)
    pictures, channels = (dict(zip(order, shape, strict=True)).get(axis, 1) for axis in "sc")
    assert images.shape == (7, 4 * pictures * channels, 5, 6)
    for frame in range(4):
        for picture in range(pictures):
            for channel in range(channels):
                row_index: dict[str, int | slice] = {"s": picture, "c": channel}
                index = (row_index.get(axis, slice(None)) for axis in order)
                expected = frames[(slice(None), frame, *index)]
                number = (frame * pictures + picture) * channels + channel
                assert torch.equal(images[:, number], expected)


def test_factors_of_the_last_axis_go_to_their_channels() -> None:
    scale = torch.tensor([1.0, 0.5, 0.25])
    plain = ImageLayout(3, 5, 6, "hwc").scale_of_channels(scale, (5, 6, 3), 2)
    stacked = ImageLayout(6, 5, 6, "shwc").scale_of_channels(scale, (2, 5, 6, 3), 1)
    for factors in (plain, stacked):
        assert isinstance(factors, torch.Tensor)
        assert factors.tolist() == [1.0, 0.5, 0.25, 1.0, 0.5, 0.25]
    assert ImageLayout(3, 5, 6, "hwc").scale_of_channels(0.5, (5, 6, 3), 2) == 0.5
