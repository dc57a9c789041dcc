"""What a network sees of tiles: restained, normalised and turned as a view says, and the way back.

Symmetries of the square are undone exactly, changes of stain have nothing to undo. Zooms are no matter of tiles: the
image itself is read at another scale (`histofold.predict.stages`).
"""

from __future__ import annotations

import numpy as np
import torch

from histofold.core.stain import stain_jitter_map
from histofold.schema.prediction import View, parse_view
from histofold.schema.preprocessing import Preprocessing

# Each is (transpose first, then flip these axes of NCHW); its undoing flips first and transposes last.
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


def network_input(tiles_NCHW: torch.Tensor, view: str, preprocessing: Preprocessing) -> torch.Tensor:
    """What networks of a preprocessing see of uint8 tiles in a view, channels last."""
    inputs_NCHW = normalise_tiles(restain(tiles_NCHW, parse_view(view)), preprocessing)
    return apply_view(inputs_NCHW, view).contiguous(memory_format=torch.channels_last)


def normalise_tiles(images_NCHW: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Grey levels (uint8, or float in [0, 255]) to float32 network input, on the device the tiles are on.

    Of tiles with more channels than the network has, its slices are the middle ones.
    """
    beside = (images_NCHW.shape[1] - preprocessing.slices) // 2
    images_NCHW = images_NCHW[:, beside : beside + preprocessing.slices]
    if preprocessing.normalise in ("imagenet", "dataset"):
        # (v / 255 - mean) / std as one product and one sum, in one pass over the memory.
        mean, std = (torch.tensor(m, dtype=torch.float64) for m in (preprocessing.mean, preprocessing.std))
        if preprocessing.slices != 3:  # moments of colours mean nothing to them
            mean, std = mean.mean(dim=0, keepdim=True), std.mean(dim=0, keepdim=True)
        scale = (1 / (255 * std)).float()[:, None, None]
        offset = (-mean / std).float()[:, None, None]
        device = images_NCHW.device
        return torch.addcmul(offset.to(device), images_NCHW.float(), scale.to(device))
    values = images_NCHW.float() / 255.0
    if preprocessing.normalise == "none":
        return values
    mean = values.mean(dim=(2, 3), keepdim=True)
    std = values.std(dim=(2, 3), keepdim=True, correction=0).clamp_min(1e-3)
    return (values - mean) / std


def apply_view(images_NCHW: torch.Tensor, view: str) -> torch.Tensor:
    """Turn or mirror images as the view says; `rot90` is counter-clockwise, as `torch.rot90`."""
    transposed, flips = SQUARE_VIEWS[parse_view(view).square]
    if transposed:
        images_NCHW = images_NCHW.transpose(2, 3)
    return images_NCHW.flip(flips) if flips else images_NCHW


def undo_view(maps_NKHW: torch.Tensor, view: str) -> torch.Tensor:
    """The inverse of `apply_view`, exactly."""
    transposed, flips = SQUARE_VIEWS[parse_view(view).square]
    if flips:
        maps_NKHW = maps_NKHW.flip(flips)
    return maps_NKHW.transpose(2, 3) if transposed else maps_NKHW


def restain(tiles_NCHW: torch.Tensor, view: View) -> torch.Tensor:
    """Tiles with other amounts of their stains.

    Amounts are those of `stain_jitter_map` (Ruifrok's vectors); the factor of the second stain is for eosin and DAB.

    Args:
        tiles_NCHW: uint8 RGB (N, 3, H, W).
        view: The view.

    Returns:
        The tiles themselves where the view leaves stains alone, else float32 grey levels in [0, 255], not rounded.
    """
    if view.stain == (1.0, 1.0):
        return tiles_NCHW
    haematoxylin, second = view.stain
    matrix_33, _ = stain_jitter_map(np.array([haematoxylin, second, second]), np.zeros(3))
    densities_NCHW = -torch.log((tiles_NCHW.float() + 1) / 256)
    mapped_NCHW = torch.einsum("nchw,cd->ndhw", densities_NCHW, densities_NCHW.new_tensor(matrix_33))
    return (torch.exp(-mapped_NCHW) * 256 - 1).clamp_(0, 255)
