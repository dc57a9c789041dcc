"""The truth of a tile and of what lies around it, for networks that see tiles with their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from histofold.core.objects.frames import framed_objects
from histofold.core.objects.instances import Objects
from histofold.core.objects.seams import linked_groups
from histofold.core.rle.runs import Runs, runs_from_mask
from histofold.core.rle.sets import union_runs


class PlacedTruth(NamedTuple):
    """What is known of one tile."""

    y: int
    """Row of its first pixel, counted from the tile in the middle."""
    x: int
    """Its column."""
    objects: Objects
    """Its objects."""
    unsure: Objects
    """Those that people were unsure of."""


def truth_in_surroundings(tiles: Sequence[PlacedTruth], context_px: int) -> tuple[Objects, Runs]:
    """The objects of a tile and its labelled neighbours, and the pixels around it that nobody labelled.

    Objects of two tiles that meet at the line between them are one object. The first row and column of a labelled tile,
    which outlines leave empty where objects are cut, take over the objects of the second.

    Args:
        tiles: The tile itself, then its labelled neighbours. Where several have a pixel, the first of them counts.
        context_px: Pixels that are added on each side of the first tile.

    Returns:
        Objects, no two of which overlap, and ignored pixels: unsure ones and those of no tile here.
    """
    height, width = tiles[0].objects.shape_hw
    frame_hw = (height + 2 * context_px, width + 2 * context_px)
    labels_HW, owners_HW = np.zeros(frame_hw, np.int64), np.full(frame_hw, -1)
    unsure: list[Runs] = []
    count = 0
    for number, tile in reversed(list(enumerate(tiles))):
        top, left = tile.y + context_px, tile.x + context_px
        own = tuple(
            slice(max(first, 0), max(first + side, 0))
            for first, side in zip((top, left), tile.objects.shape_hw, strict=True)
        )
        owners_HW[own] = number
        inside_HW = _label_image(tile.objects, count)[max(-top, 0) :, max(-left, 0) :]
        rows, columns = owners_HW[own].shape
        labels_HW[own] = inside_HW[:rows, :columns]
        unsure += framed_objects(tile.unsure, (-top, -left), frame_hw)
        count += len(tile.objects)
    ignored = union_runs([runs_from_mask(owners_HW < 0), *unsure])
    return Objects.from_labels(_joined_labels(labels_HW, owners_HW, count)), ignored


def _label_image(objects: Objects, first: int) -> np.ndarray:
    """Labels from first + 1 on, int64 (H, W), of later objects above earlier ones; the rim is filled up."""
    height, width = objects.shape_hw
    labels_P = np.zeros(height * width, np.int64)
    owners = np.repeat(np.arange(len(objects)), np.diff(objects.offsets)) + first + 1
    for start, length, label in zip(objects.starts, objects.lengths, owners, strict=True):
        labels_P[start : start + length] = label
    labels_HW = labels_P.reshape(width, height).T
    for lines_HW in (labels_HW, labels_HW.T):
        if len(lines_HW) > 1:
            lines_HW[0] = np.where(lines_HW[0] == 0, lines_HW[1], lines_HW[0])
    return labels_HW


def _joined_labels(labels_HW: np.ndarray, owners_HW: np.ndarray, count: int) -> np.ndarray:
    """Labels whose objects meet where one tile ends and another begins become one."""
    pairs = []
    for labels, owners in ((labels_HW, owners_HW), (labels_HW.T, owners_HW.T)):
        meets = (owners[1:] != owners[:-1]) & (labels[1:] > 0) & (labels[:-1] > 0)
        pairs.append(np.stack([labels[:-1][meets], labels[1:][meets]]))
    first, second = np.concatenate(pairs, axis=1)
    return linked_groups(count + 1, first, second)[labels_HW]
