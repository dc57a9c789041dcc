"""Slides at thumbnail size, read in thin bands: an audit of many slides must stay small whatever their size."""

from __future__ import annotations

import numpy as np

from histoseg.imaging.resample import ScaledSlide, scaled_shape
from histoseg.imaging.slide import Slide

_BAND_SOURCE_PIXELS = 1 << 21


def fitting_shape(shape_hw: tuple[int, int], max_side: int) -> tuple[int, int]:
    """The size of an image at no more than `max_side` pixels; it is never enlarged."""
    return scaled_shape(shape_hw, min(1.0, max_side / max(shape_hw)))


def read_small(slide: Slide, scaled_hw: tuple[int, int]) -> np.ndarray:
    """A whole slide at another size, uint8 RGB (H, W, 3); what `ScaledSlide` gives, in less memory.

    Raises:
        ImageError: If the slide cannot be decoded.
    """
    view = ScaledSlide(slide, scaled_hw)
    height, width = scaled_hw
    source_rows = max(1, _BAND_SOURCE_PIXELS // slide.shape_hw[1])
    step = max(1, source_rows * height // slide.shape_hw[0])
    small_HWC = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, step):
        band = slice(top, min(top + step, height))
        small_HWC[band] = view.read(band, slice(0, width))
    return small_HWC
