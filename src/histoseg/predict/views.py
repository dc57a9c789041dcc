"""Test-time views: the eight symmetries of the square, each undone exactly."""

from __future__ import annotations

import torch

# Each view is (transpose first, then flip these axes of NCHW); its undoing flips first and transposes last.
SQUARE_VIEWS: dict[str, tuple[bool, tuple[int, ...]]] = {
    "identity": (False, ()),
    "hflip": (False, (3,)),
    "vflip": (False, (2,)),
    "rot180": (False, (2, 3)),
    "transpose": (True, ()),
    "rot90": (True, (2,)),
    "rot270": (True, (3,)),
    "antitranspose": (True, (2, 3)),
}


def apply_view(images_NCHW: torch.Tensor, view: str) -> torch.Tensor:
    """Turn or mirror images as the view says; `rot90` is counter-clockwise, as `torch.rot90`."""
    transposed, flips = SQUARE_VIEWS[view]
    if transposed:
        images_NCHW = images_NCHW.transpose(2, 3)
    return images_NCHW.flip(flips) if flips else images_NCHW


def undo_view(maps_NKHW: torch.Tensor, view: str) -> torch.Tensor:
    """The inverse of `apply_view`, exactly."""
    transposed, flips = SQUARE_VIEWS[view]
    if flips:
        maps_NKHW = maps_NKHW.flip(flips)
    return maps_NKHW.transpose(2, 3) if transposed else maps_NKHW
