"""Masks over boxes, as networks give them, become objects of the image: one at a time, straight to runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from histofold.core.objects.instances import Objects


def paste_masks(
    boxes_M4: np.ndarray,
    probs_Mhw: np.ndarray | Sequence[np.ndarray],
    shape_hw: tuple[int, int],
    threshold: float = 0.5,
    *,
    framed: bool = True,
) -> Objects:
    """Objects from boxes and the masks that were found in them.

    Those of square maps are torchvision's `paste_masks_in_image(...) > threshold`: a frame of zeros, one cell of the
    map wide, is laid around each map; its box grows by as much, is cut to whole pixels, and ends one pixel later; the
    map is resized to it bilinearly. Only what lies in the image is computed. Memory is that of the maps and the runs.

    Source: https://github.com/pytorch/vision, torchvision/models/detection/roi_heads.py

    Args:
        boxes_M4: (y0, x0, y1, x1) in pixels of the image, float; they may reach beyond it or lie outside.
        probs_Mhw: Probabilities over each box, all of one size or one array (h, w) each.
        shape_hw: Height and width of the image in pixels.
        threshold: A pixel belongs to an object above it.
        framed: False: no frame, and no cut to whole pixels: each pixel whose centre lies in the box has the map's value
            there. That is exact where torchvision's is thick by up to a pixel, which costs a nucleus of 8 px 0.15 of
            its IoU; a map of a whole tile comes back as it is, or resized to the tile, and does not fade at its border.

    Returns:
        One object a box in the given order; one without a pixel above the threshold, or outside, has no runs.

    Raises:
        ValueError: If boxes and maps do not fit together, or a box is not finite.
    """
    height, width = shape_hw
    boxes_M4 = np.asarray(boxes_M4)
    boxes_M4 = boxes_M4.reshape(-1, 4) if boxes_M4.dtype.kind == "f" else boxes_M4.reshape(-1, 4).astype(np.float32)
    if len(boxes_M4) != len(probs_Mhw) or not np.isfinite(boxes_M4).all():
        raise ValueError(f"{len(boxes_M4)} boxes and {len(probs_Mhw)} maps: give each map one box of finite numbers")
    starts, lengths, offsets = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [0]
    for box_4, probs_hw in zip(boxes_M4, probs_Mhw, strict=True):
        rows = _axis_weights(box_4[0], box_4[2], probs_hw.shape[0], height, framed)
        columns = _axis_weights(box_4[1], box_4[3], probs_hw.shape[1], width, framed)
        framed_hw = np.pad(np.asarray(probs_hw, np.float32), int(framed))
        mask_WH = (_interpolated(_interpolated(framed_hw.T, columns[1:]).T, rows[1:]) > threshold).T
        # A pixel of background below each column, so that runs end where columns end.
        edges = np.flatnonzero(np.diff(np.pad(mask_WH, ((0, 0), (1, 1))).reshape(-1), append=False))
        lines, depths = np.divmod(edges, mask_WH.shape[1] + 2)
        starts.append((lines[::2] + columns[0]) * height + depths[::2] + rows[0])
        lengths.append(depths[1::2] - depths[::2])
        offsets.append(offsets[-1] + len(starts[-1]))
    return Objects(np.concatenate(starts), np.concatenate(lengths), np.array(offsets, np.int64), (height, width))


def _axis_weights(
    low: np.floating, high: np.floating, cells: int, pixels: int, framed: bool
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """How the pixels of an axis that lie in the image come from a map's cells.

    Args:
        low: Begin of the box in pixels.
        high: End of the box.
        cells: Cells of the map along the axis, without the frame.
        pixels: Length of the image.
        framed: See `paste_masks`.

    Returns:
        The first pixel; for each pixel from there on its lower and its upper cell and the upper one's part, float32.
    """
    if framed:
        # These steps, in the boxes' own precision, are torchvision's: the cut to whole pixels depends on their order.
        half, middle = (high - low) * 0.5, (high + low) * 0.5
        half = half * ((cells + 2) / cells)
        low, high, cells = middle - half, middle + half, cells + 2
        first, size = int(low), max(1, int(high) - int(low) + 1)
        shift, step = np.float32(0.5), np.float32(cells / size)
    else:
        first, last = (math.ceil(float(side) - 0.5) for side in (low, high))  # by their centres
        size = max(1, last - first)
        shift, step = np.float32(first - float(low) + 0.5), np.float32(cells / max(float(high) - float(low), 1e-6))
    begin, end = max(first, 0), min(first + size, pixels)
    at = np.arange(begin - first, max(end, begin) - first, dtype=np.float32)
    sources = np.clip(step * (at + shift) - np.float32(0.5), np.float32(0), np.float32(cells - 1))
    lower = np.minimum(sources.astype(np.int64), cells - 1)
    return begin, lower, np.minimum(lower + 1, cells - 1), sources - lower.astype(np.float32)


def _interpolated(values: np.ndarray, weights: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Values along axis 0 between their lower and their upper neighbour."""
    lower, upper, part = weights
    return np.asarray(values[lower] * (1 - part)[:, None] + values[upper] * part[:, None])
