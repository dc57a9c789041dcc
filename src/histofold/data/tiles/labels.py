"""Objects of a tile as 16 bits a pixel: 0 is background, 1 and up the tile's own objects, 65535 what does not count.

A pixel has one object: where objects overlap, the smaller one of the slide lies on top. Objects lie on top of what is
ignored, since the host scores them whole.
"""

from __future__ import annotations

import cv2
import numpy as np

from histofold.core.faults import ImageError
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Runs

IGNORED_LABEL = 65535
"""The label of pixels that training passes over."""


def target_labels(
    objects: Objects, scaled_hw: tuple[int, int], y: slice, x: slice, ignored: Runs | None = None
) -> np.ndarray:
    """A region of a slide's objects at another size, each decoded for that region alone.

    A scaled pixel is what the slide's pixel under its middle is, so that objects which touch go on touching.

    Args:
        objects: The truth, at the slide's own size.
        scaled_hw: Height and width of the slide as the tiles see it.
        y: Rows of the scaled slide.
        x: Its columns.
        ignored: Pixels that do not count, at the slide's own size.

    Returns:
        uint16 (h, w); the objects that are seen are numbered from 1 on in their own order.

    Raises:
        ImageError: If a tile shows more objects than 16 bits can number.
    """
    rows = _middles(y, objects.shape_hw[0], scaled_hw[0])
    columns = _middles(x, objects.shape_hw[1], scaled_hw[1])
    labels_HW = np.zeros((len(rows), len(columns)), np.int32)
    seen = _boxes_within(objects.boxes, rows, columns)
    if ignored is not None:
        labels_HW[_sampled(ignored, rows, columns)] = len(seen) + 1
    numbers = 1 + np.argsort(-objects.areas[seen], kind="stable")  # the largest is painted first
    for number in numbers:
        top, left, bottom, right = objects.boxes[seen[number - 1]]
        own_y, own_x = slice(*rows.searchsorted((top, bottom))), slice(*columns.searchsorted((left, right)))
        labels_HW[own_y, own_x][_sampled(objects[seen[number - 1]], rows[own_y], columns[own_x])] = number
    return _numbered(labels_HW, len(seen) + 1)


def _middles(span: slice, length: int, scaled: int) -> np.ndarray:
    """The slide's pixels under the middles of scaled ones along an axis, int64."""
    return (2 * np.arange(span.start, span.stop) + 1) * length // (2 * scaled)


def _boxes_within(boxes_M4: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Places of the boxes that hold one of the sampled pixels."""
    firsts, lasts = (rows.searchsorted(boxes_M4[:, at]) for at in (0, 2))
    lefts, rights = (columns.searchsorted(boxes_M4[:, at]) for at in (1, 3))
    return np.flatnonzero((firsts < lasts) & (lefts < rights))


def _sampled(runs: Runs, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The pixels of a mask at rows and columns that ascend, bool (h, w); only what lies between them is decoded."""
    window_HW = runs.to_window(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return window_HW[(rows - rows[0])[:, np.newaxis], columns - columns[0]]


def _numbered(labels_HW: np.ndarray, ignored: int) -> np.ndarray:
    """Labels without gaps, uint16: of objects that lie wholly under others none is left."""
    is_there = np.bincount(labels_HW.ravel(), minlength=ignored + 1)[1:ignored] > 0
    if is_there.sum() >= IGNORED_LABEL:
        rule = f"a tile shows {is_there.sum()} objects, and its labels can number {IGNORED_LABEL - 1}"
        raise ImageError(rule, rule=rule, remedy="lower tiles.size, or preprocessing.whole_size")
    return np.concatenate([[0], np.cumsum(is_there), [IGNORED_LABEL]]).astype(np.uint16)[labels_HW]


def structure_pixels(mask_HW: np.ndarray) -> np.ndarray:
    """The pixels of any object, bool (h, w).

    Args:
        mask_HW: Labels, uint16.
    """
    return (mask_HW > 0) & (mask_HW != IGNORED_LABEL)


def touching_pixels(labels_HW: np.ndarray, reach_px: int = 1, ground: bool = False) -> np.ndarray:
    """The pixels of objects that see another object within a square of `reach_px` to each side, bool (h, w).

    Args:
        labels_HW: Labels, uint16.
        reach_px: Pixels to each side, at least 1.
        ground: Whether the background counts as another object; what is ignored, or beyond the tile, never does.
    """
    structures_HW = structure_pixels(labels_HW)
    square = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    highest_HW = cv2.dilate(np.where(structures_HW, labels_HW, np.uint16(0)), square)
    passed_over_HW = labels_HW == IGNORED_LABEL if ground else ~structures_HW
    lowest_HW = cv2.erode(np.where(passed_over_HW, np.uint16(IGNORED_LABEL), labels_HW), square)
    return structures_HW & (highest_HW != lowest_HW)


def separate_objects(labels_HW: np.ndarray) -> np.ndarray:
    """The pixels of objects without those that touch another object, bool (h, w): each has an outline of its own."""
    return structure_pixels(labels_HW) & ~touching_pixels(labels_HW)


def joined_labels(labels_HW: np.ndarray, others_HW: np.ndarray) -> np.ndarray:
    """The labels of another tile, renumbered so that none of them is one of the first tile's.

    Args:
        labels_HW: uint16 (H, W), the first tile's.
        others_HW: uint16 (h, w).

    Returns:
        uint16 (h, w); where both together are too many to be numbered, the last ones are ignored.
    """
    highest = int(np.where(labels_HW == IGNORED_LABEL, 0, labels_HW).max(initial=0))
    moved_HW = np.minimum(others_HW.astype(np.int32) + highest, IGNORED_LABEL)
    return np.where(others_HW == 0, 0, moved_HW).astype(np.uint16)
