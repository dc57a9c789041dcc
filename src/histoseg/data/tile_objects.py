"""Tiles on the objects of a mask, found among its runs: the mask itself is never built."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from histoseg.core.components import label_runs, split_runs
from histoseg.core.rle import Runs
from histoseg.core.tiles import axis_spans

Origin = tuple[int, int]


def object_boxes(runs: Runs) -> np.ndarray:
    """The boxes of a mask's connected components (8 neighbours).

    Args:
        runs: The mask.

    Returns:
        int64 (N, 4): first row, first column, and the row and column after the last, in pixels of the mask.
    """
    pieces = split_runs(runs)
    if len(pieces) == 0:
        return np.zeros((0, 4), np.int64)
    labels = label_runs(pieces)
    lines, first = np.divmod(pieces.starts, runs.line_length)
    along, across = (first, first + pieces.lengths), (lines, lines + 1)
    (top, bottom), (left, right) = (along, across) if runs.order == "F" else (across, along)
    boxes_N4 = np.zeros((int(labels.max()) + 1, 4), np.int64)
    boxes_N4[:, :2] = max(runs.shape_hw)
    np.minimum.at(boxes_N4[:, 0], labels, top)
    np.minimum.at(boxes_N4[:, 1], labels, left)
    np.maximum.at(boxes_N4[:, 2], labels, bottom)
    np.maximum.at(boxes_N4[:, 3], labels, right)
    return boxes_N4


def drawn_boxes(boxes_N4: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """At most so many boxes, drawn without repetition, in their own order; 0 keeps all."""
    if most == 0 or len(boxes_N4) <= most:
        return boxes_N4
    return boxes_N4[np.sort(generator.choice(len(boxes_N4), most, replace=False))]


def tiles_on_box(
    box: np.ndarray, size: int, stride: int, shift_yx: tuple[float, float], shape_hw: tuple[int, int]
) -> Iterator[Origin]:
    """Origins of the tiles on an object: one in its middle, moved by `shift_yx`, or several over a larger object.

    Args:
        box: float (4,): first row and column, last row and column, in pixels of the scaled slide.
        size: Side of a tile.
        stride: Distance of the tiles over an object that is larger than one.
        shift_yx: Displacement in pixels, less than half a tile so that the object's middle stays inside.
        shape_hw: Height and width of the scaled slide; tiles are moved inside where it is large enough.
    """
    axes = []
    is_small = max(box[2] - box[0], box[3] - box[1]) <= size
    for axis in range(2):
        start, stop = float(box[axis]), float(box[axis + 2])
        if stop - start <= size:
            shift = shift_yx[axis] if is_small else 0.0
            origins = [round((start + stop - size) / 2 + shift)]
        else:
            first = math.floor(start)
            origins = [first + span.read.start for span in axis_spans(math.ceil(stop) - first, size, stride, 0)]
        limit = max(0, shape_hw[axis] - size)
        axes.append(sorted({min(max(0, origin), limit) for origin in origins}))
    for y in axes[0]:
        for x in axes[1]:
            yield y, x
