"""Whole slides and their labels at the size of a picture, read in thin bands."""

from __future__ import annotations

import numpy as np

from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Runs
from histofold.imaging.resample import ScaledSlide, resample_mask_region, scaled_shape
from histofold.imaging.slide import Slide

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


def small_mask(runs: Runs, scaled_hw: tuple[int, int]) -> np.ndarray:
    """A whole mask at another size, bool (H, W)."""
    everything = slice(0, scaled_hw[0]), slice(0, scaled_hw[1])
    return resample_mask_region(runs, scaled_hw, *everything)


def small_owners(objects: Objects, small_hw: tuple[int, int]) -> np.ndarray:
    """Which object each pixel of a smaller picture shows, int64 (h, w): the last one there, -1 where there is none."""
    (height, width), (rows, columns) = objects.shape_hw, small_hw
    # The pixel of the image under the middle of each row and column of the picture.
    row_middles = ((np.arange(rows) + 0.5) * height / rows).astype(np.int64)
    column_of = np.full(width, -1)
    column_of[((np.arange(columns) + 0.5) * width / columns).astype(np.int64)] = np.arange(columns)
    column, top = np.divmod(objects.starts, height)
    first, last = (np.searchsorted(row_middles, edge) for edge in (top, top + objects.lengths))
    owner = np.repeat(np.arange(len(objects)), np.diff(objects.offsets))
    counts = np.where(column_of[column] >= 0, last - first, 0)
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    owners_HW = np.full(small_hw, -1)
    owners_HW[places, np.repeat(column_of[column], counts)] = np.repeat(owner, counts)
    return owners_HW


def thumbnail(slide: Slide, runs: Runs, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """A slide and its labels at no more than `max_side` pixels: uint8 RGB (H, W, 3) and bool (H, W)."""
    scaled_hw = fitting_shape(slide.shape_hw, max_side)
    return read_small(slide, scaled_hw), small_mask(runs, scaled_hw)
