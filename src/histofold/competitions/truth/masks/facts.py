"""What is to be known of one mask file before it is decided what the values of its folder mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from histofold.competitions.truth.masks.files import MaskFile

NEAR = 16 / 255
"""What differs from black or white by up to this share of white is near it: JPEG's noise."""
FEW_VALUES = 32
"""More values than this are numbers of objects, and not of classes with a void beside them."""
MOST_CLASSES = 7
"""Values or colours of a folder of masks up to so many may be classes."""
_SAMPLED_SIDE = 256
_COUNTED_VALUES = 1 << 20
Transparency = Literal["", "background", "mask"]
"""What alpha means: nothing, that what is transparent is background, or that alpha is the mask."""


@dataclass(frozen=True)
class MaskFacts:
    """What is to be known of one mask file."""

    values: np.ndarray
    """Distinct values of its brightest channel, ascending, as shares of white."""
    numbers: np.ndarray
    """The same values as they are stored."""
    colours: int
    """Distinct colours, where channels differ; 0 of grey masks."""
    hues: int
    """Distinct colours beside black of a sample of its pixels, where they are few; 0 of grey masks."""
    between: int
    """Pixels between black and nearly white."""
    flat: int
    """Those of them that equal their right and their lower neighbour, as soft edges do not."""
    pixels: int
    """All pixels."""
    has_void: bool
    """Whether its palette is used up to its last index beside a few first ones, as void is written."""
    is_lossy: bool
    """Whether it is a JPEG."""

    @property
    def is_hard(self) -> bool:
        """Whether it holds nothing but black and nearly white."""
        return bool(((self.values == 0) | (self.values >= 1 - NEAR)).all())


def mask_brightness(mask: MaskFile, transparency: Transparency = "") -> np.ndarray:
    """The brightest channel of each pixel, (H, W); alpha where it is the mask; black where it makes it background."""
    colours_HWS, alpha_HW = mask.planes()
    if alpha_HW is not None and transparency == "mask":
        return alpha_HW
    bright_HW: np.ndarray = colours_HWS[:, :, 0] if colours_HWS.shape[2] == 1 else colours_HWS.max(axis=2)
    if alpha_HW is not None and transparency:
        return np.where(_clear(alpha_HW), 0, bright_HW)
    return bright_HW


def mask_white(mask: MaskFile) -> float:
    """The brightness of white."""
    return 255.0 if mask.palette_L3 is not None else mask.white


def mask_facts(mask: MaskFile, transparency: Transparency = "", ignore_value: float | None = None) -> MaskFacts:
    """Look at a decoded mask; pixels of the ignored value do not count."""
    bright_HW, white = mask_brightness(mask, transparency), mask_white(mask)
    if ignore_value is None:
        numbers = distinct_values(bright_HW)
    else:
        counted_HW = mask.numbers() != ignore_value
        numbers = distinct_values(bright_HW[counted_HW]) if counted_HW.any() else np.zeros(1)
        bright_HW = np.where(counted_HW, bright_HW, 0)
    darkest = NEAR * white if mask.is_lossy else 0
    between = flat = 0
    if len(numbers) == 2 and numbers[0] == 0 and darkest < numbers[1] < (1 - NEAR) * white:
        between = flat = int(np.count_nonzero(bright_HW))  # one value beside black has no soft edges
    elif len(numbers) > 2 or numbers[0] != 0:
        between_HW = (bright_HW > darkest) & (bright_HW < (1 - NEAR) * white)
        corner_HW = bright_HW[:-1, :-1]
        flat_HW = between_HW[:-1, :-1] & (corner_HW == bright_HW[1:, :-1]) & (corner_HW == bright_HW[:-1, 1:])
        between, flat = int(between_HW[:-1, :-1].sum()), int(flat_HW.sum())
    return MaskFacts(
        values=numbers / white,
        numbers=numbers,
        colours=_colours(mask),
        hues=_hues(mask),
        between=between,
        flat=flat,
        pixels=bright_HW.size,
        has_void=mask.palette_L3 is not None and _has_void(mask, ignore_value),
        is_lossy=mask.is_lossy,
    )


def _has_void(mask: MaskFile, ignore_value: float | None) -> bool:
    """Whether an index of 255 stands beside a few classes, and is not known to be void."""
    indices = distinct_values(mask.numbers())
    return ignore_value != 255 and indices[-1] == 255 and 2 < len(indices) <= FEW_VALUES


def distinct_values(values_HW: np.ndarray) -> np.ndarray:
    """The distinct values of an array, ascending; counted instead of sorted where they are few."""
    if values_HW.dtype == bool:
        values_HW = values_HW.view(np.uint8)
    if values_HW.dtype == np.uint8:
        flat = np.ascontiguousarray(values_HW).reshape(len(values_HW), -1)
        return np.flatnonzero(cv2.calcHist([flat], [0], None, [256], [0, 256]))
    if values_HW.dtype.kind in "iu" and values_HW.min() >= 0 and values_HW.max() < _COUNTED_VALUES:
        return np.flatnonzero(np.bincount(values_HW.ravel()))
    return np.unique(values_HW)


def _colours(mask: MaskFile) -> int:
    """Distinct colours of a mask whose channels differ, at most a few; 0 where all is grey."""
    if mask.palette_L3 is not None:
        used_L3 = mask.palette_L3[distinct_values(mask.numbers())]
    else:
        colours_HWS, _ = mask.planes()
        if colours_HWS.shape[2] == 1:
            return 0
        used_L3 = colours_HWS.reshape(-1, 3)
    if (used_L3 == used_L3[:, :1]).all():
        return 0
    first = used_L3[0]
    return 1 if (used_L3 == first).all() else 2


def _hues(mask: MaskFile) -> int:
    """Distinct colours beside black of some pixels; 0 where channels are equal or colours are many."""
    colours_HWS, _ = mask.planes()
    if colours_HWS.shape[2] == 1 or mask.is_lossy:
        return 0
    step = 1 + max(colours_HWS.shape[:2]) // _SAMPLED_SIDE
    used_L3 = np.unique(colours_HWS[::step, ::step].reshape(-1, 3), axis=0)
    is_hued = (used_L3 != used_L3[:, :1]).any()
    hues = int(used_L3.any(axis=1).sum())
    return hues if is_hued and hues <= MOST_CLASSES else 0


def mask_transparency(masks: Sequence[tuple[bool, bool, tuple[float, ...] | None]]) -> Transparency:
    """What alpha means, of the masks of a folder that have any.

    Args:
        masks: Of each: whether something is transparent, whether something is not, and its only colour if it has one.
    """
    if not (any(clear for clear, _, _ in masks) and any(solid for _, solid, _ in masks)):
        return ""
    colours = {colour for _, _, colour in masks}
    return "mask" if len(colours) == 1 and None not in colours else "background"


def _clear(alpha_HW: np.ndarray) -> np.ndarray:
    """Where a picture is transparent: less than half as solid as where it is most so, bool (H, W)."""
    return alpha_HW < max(1, int(alpha_HW.max())) / 2


def alpha_facts(mask: MaskFile) -> tuple[bool, bool, tuple[float, ...] | None] | None:
    """For `mask_transparency`; None where a mask has no alpha."""
    colours_HWS, alpha_HW = mask.planes()
    if alpha_HW is None:
        return None
    clear_HW = _clear(alpha_HW)
    first = colours_HWS[0, 0]
    only = tuple(map(float, first)) if (colours_HWS == first).all() else None
    return bool(clear_HW.any()), not clear_HW.all(), only
