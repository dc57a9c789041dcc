"""What a detector finds in one tile, and what it asks of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

DETECTOR_STRIDE = 32
TARGETS_AT_ONCE = 32
"""Masks of training that are float at one time: each has the size of the image."""
BOXES_AT_ONCE = 256
"""Proposals whose features are made at one time: 2000 of C4 need 1.6 GB, and its stage some times that."""
MASKS_AT_ONCE = 128
"""Boxes whose masks are made at one time: a thousand at once need a gigabyte."""


@dataclass(frozen=True, eq=False)
class TileFinds:
    """Objects found in one tile, best first, on the network's device."""

    boxes_M4: torch.Tensor  # noqa: N815
    """Boxes (y0, x0, y1, x1) in pixels of the tile, float32."""
    scores_M: torch.Tensor  # noqa: N815
    """Scores in 0 to 1, float32."""
    masks_Mhw: torch.Tensor  # noqa: N815
    """Probabilities of being the object, float32: a grid over the box, to be pasted without a frame."""

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.scores_M)


def swap_xy(boxes_M4: torch.Tensor) -> torch.Tensor:
    """Boxes (x0, y0, x1, y1) as (y0, x0, y1, x1), or back."""
    return boxes_M4[:, [1, 0, 3, 2]]


def check_images(images_NCHW: torch.Tensor) -> None:
    """Refuse images whose sides are no multiples of 32.

    Raises:
        ValueError: With what the images are and what they should be.
    """
    height, width = images_NCHW.shape[2:]
    if height % DETECTOR_STRIDE or width % DETECTOR_STRIDE:
        raise ValueError(f"images of {height}x{width} px: detectors take multiples of {DETECTOR_STRIDE}; pad them")


def no_numbers(shape_hw: Sequence[int], like: torch.Tensor) -> TileFinds:
    """What stands for the finds of a tile where a network overflowed: to be seen by whoever asks for finite scores.

    Args:
        shape_hw: Height and width of the tile.
        like: A tensor on the device where the finds lie.
    """
    boxes_M4 = like.new_tensor([[0.0, 0.0, *shape_hw]])
    return TileFinds(boxes_M4, like.new_full((1,), torch.nan), like.new_zeros(1, 1, 1))
