"""Objects from dense maps: the rows of an image in slabs, each split by a watershed, and slabs that overlap joined.

An image of up to 4 megapixels is one slab.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.objects.seams import TileObjects, merge_tiles
from histofold.core.objects.watershed import label_scores, watershed_labels
from histofold.predict.stages import OutOfTimeError
from histofold.schema.objects import ObjectConfig

SLAB_PIXELS = 1 << 22  # the watershed takes some 40 bytes of each
SLAB_ROWS = 1024  # at least, however wide the image is
SHARED_ROWS = 384
MARGIN = 6  # part of the shared rows that a slab's watershed sees at its edge, and leaves to its neighbour


def dense_detections(
    bands: Iterator[tuple[int, np.ndarray]],
    shape_hw: tuple[int, int],
    config: ObjectConfig,
    slab_pixels: int = SLAB_PIXELS,
    slab_rows: int = SLAB_ROWS,
) -> tuple[Detections, int]:
    """The objects of an image from its maps.

    Args:
        bands: (first row, probabilities (3, h, W): object, boundary, distance), from top to bottom.
        shape_hw: Height and width of the image.
        config: Thresholds of foreground and markers, and what joins slabs.
        slab_pixels: Most pixels of a slab.
        slab_rows: Least rows of a slab, which go before its most pixels.

    Returns:
        The objects with their mean probabilities as scores, and the rows that the network saw: time may run out.

    Raises:
        OutOfTimeError: If time ran out before there was a single row.
        ValueError: If there are other than three maps.
    """
    rows, shared = max(slab_rows, slab_pixels // shape_hw[1]), min(SHARED_ROWS, slab_rows // 2)
    tiles, rows_done = [], 0
    for slab in row_slabs(bands, shape_hw, rows, shared):
        rows_done = slab.top + slab.maps.shape[1]
        tiles.append(slab_objects(slab, shared // MARGIN, config))
    return Detections(*merge_tiles(tiles, shape_hw, config.merge_iou)), rows_done


class Slab(NamedTuple):
    """Some rows of an image over its whole width."""

    top: int
    """The first of them."""
    maps: np.ndarray
    """Their values, float32 (K, h, W)."""
    is_last: bool
    """Whether none follows."""


def row_slabs(
    bands: Iterator[tuple[int, np.ndarray]], shape_hw: tuple[int, int], rows: int, shared: int
) -> Iterator[Slab]:
    """Bands gathered into slabs that share rows with the next one, each valid until that is asked for.

    Where time runs out, the last one ends where the bands did.

    Raises:
        OutOfTimeError: If there was no band.
    """
    slab_KHW: np.ndarray | None = None
    top = filled = 0
    try:
        for _, band_KHW in bands:
            if slab_KHW is None:
                slab_KHW = np.empty((len(band_KHW), min(rows, shape_hw[0]), shape_hw[1]), np.float32)
            taken = 0
            while taken < band_KHW.shape[1]:
                count = min(band_KHW.shape[1] - taken, slab_KHW.shape[1] - filled)
                slab_KHW[:, filled : filled + count] = band_KHW[:, taken : taken + count]
                taken, filled = taken + count, filled + count
                if filled == slab_KHW.shape[1] and top + filled < shape_hw[0]:
                    yield Slab(top, slab_KHW, False)
                    slab_KHW[:, :shared] = slab_KHW[:, filled - shared :].copy()
                    top, filled = top + filled - shared, shared
    except OutOfTimeError:
        if slab_KHW is None:
            raise
    if slab_KHW is not None:
        yield Slab(top, slab_KHW[:, :filled], True)


def slab_objects(slab: Slab, margin: int, config: ObjectConfig) -> TileObjects:
    """The objects of a slab, cut by a margin of so many rows where it has a neighbour."""
    maps_KHW = slab.maps
    if len(maps_KHW) != 3:
        raise ValueError(f"{len(maps_KHW)} maps: objects are found in three, of object, boundary and distance")
    labels_HW = watershed_labels(*maps_KHW, threshold=config.mask_threshold, marker=config.marker)
    first = margin if slab.top else 0
    last = len(labels_HW) if slab.is_last else len(labels_HW) - margin
    labels_HW = labels_HW[first:last]
    scores_M = label_scores(labels_HW, maps_KHW[0, first:last])
    return TileObjects(Objects.from_labels(labels_HW), scores_M, (slab.top + first, 0))
