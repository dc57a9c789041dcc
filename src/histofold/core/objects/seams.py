"""Objects of overlapping tiles become objects of the image: what two tiles saw of one object is joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from histofold.core.jit import njit
from histofold.core.objects.instances import ColumnRuns, Objects, join_objects, unite_runs
from histofold.core.objects.overlaps import Pairs, overlapping_pairs


class TileObjects(NamedTuple):
    """What was found in one tile."""

    objects: Objects
    """Objects of the tile, in its own pixels; their `shape_hw` is the tile's."""
    scores: np.ndarray
    """Their scores, (N,)."""
    offset: tuple[int, int]
    """The tile's first pixel in the image, (y, x)."""


def merge_tiles(
    tiles: Sequence[TileObjects], shape_hw: tuple[int, int], iou: float = 0.5
) -> tuple[Objects, np.ndarray]:
    """Objects of tiles as objects of the image.

    Two objects of different tiles are one if their IoU, within the pixels that both tiles saw, is above `iou`: what a
    tile's border cuts is compared by the part that both could see. One object takes all pixels of its parts and their
    highest score. Above 0.5, and where the objects of a tile do not overlap, none has two partners in a tile: suppress
    duplicates within a tile first (`mask_nms`). Where tiles share no pixels, cut objects stay cut.

    Args:
        tiles: What each tile found.
        shape_hw: Height and width of the image in pixels.
        iou: Overlap above which objects are one, at least 0.5.

    Returns:
        Objects and scores_M, float64, in the order of the tiles.

    Raises:
        ValueError: If a tile reaches beyond the image, its scores are not one an object, or `iou` is below 0.5.
    """
    if not 0.5 <= iou <= 1:
        raise ValueError(f"iou={iou}: at least 0.5, where an object has one partner in a tile, and at most 1")
    windows_T4 = _checked_windows(tiles, shape_hw)
    objects = join_objects([_placed(tile, shape_hw) for tile in tiles], shape_hw)
    scores_N = np.concatenate([np.zeros(0), *(tile.scores for tile in tiles)])
    tile_N = np.repeat(np.arange(len(tiles)), np.array([len(tile.objects) for tile in tiles], np.int64))
    pairs = overlapping_pairs(objects, objects)
    across = (pairs.first < pairs.second) & (tile_N[pairs.first] != tile_N[pairs.second])
    pairs = Pairs(*(part[across] for part in pairs))
    both_P4 = windows_T4[tile_N[pairs.first]], windows_T4[tile_N[pairs.second]]
    seen_P4 = np.hstack([np.maximum(*both_P4)[:, :2], np.minimum(*both_P4)[:, 2:]])
    areas_P = np.zeros(len(seen_P4), np.int64)
    for side in (pairs.first, pairs.second):
        _add_areas_jit((objects.starts, objects.lengths, objects.offsets), side, seen_P4, shape_hw[0], areas_P)
    one = pairs.shared / (areas_P - pairs.shared) > iou
    group_N = linked_groups(len(objects), pairs.first[one], pairs.second[one])
    leads, group_N = np.unique(group_N, return_inverse=True)
    scores_M = np.full(len(leads), -np.inf)
    np.maximum.at(scores_M, group_N, scores_N)
    columns, rows = np.divmod(objects.starts, shape_hw[0])
    lines = ColumnRuns(np.repeat(group_N, np.diff(objects.offsets)), columns, rows, objects.lengths)
    return unite_runs(lines, len(leads), shape_hw), scores_M


def _checked_windows(tiles: Sequence[TileObjects], shape_hw: tuple[int, int]) -> np.ndarray:
    """What each tile saw as (y, x, bottom, right), int64 (T, 4), once all lie within the image."""
    faults = []
    windows = []
    for index, (objects, scores, (y, x)) in enumerate(tiles):
        bottom, right = y + objects.shape_hw[0], x + objects.shape_hw[1]
        windows.append((y, x, bottom, right))
        if min(y, x) < 0 or bottom > shape_hw[0] or right > shape_hw[1]:
            faults.append(
                f"tile {index} at {(y, x)} of {objects.shape_hw} px reaches beyond the image of {tuple(shape_hw)} px: "
                "crop its objects to the image"
            )
        if np.shape(scores) != (len(objects),):
            faults.append(f"tile {index}: {len(objects)} objects and scores of shape {np.shape(scores)}: one an object")
    if faults:
        raise ValueError("\n".join(faults))
    return np.array(windows, np.int64).reshape(-1, 4)


def _placed(tile: TileObjects, shape_hw: tuple[int, int]) -> Objects:
    """A tile's objects in the pixels of the image."""
    columns, rows = np.divmod(tile.objects.starts, tile.objects.shape_hw[0])
    starts = (columns + tile.offset[1]) * shape_hw[0] + rows + tile.offset[0]
    return Objects(starts, tile.objects.lengths, tile.objects.offsets, shape_hw)


def linked_groups(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each object the lowest index that it is linked to, over any number of links, int64 (N,)."""
    group_N = np.arange(count)
    while (group_N[first] != group_N[second]).any():  # once a tile that an object crosses, which are few
        lower = np.minimum(group_N[first], group_N[second])
        np.minimum.at(group_N, first, lower)
        np.minimum.at(group_N, second, lower)
    return group_N


@njit
def _add_areas_jit(
    runs: tuple[np.ndarray, np.ndarray, np.ndarray],
    indices: np.ndarray,
    windows_P4: np.ndarray,
    height: int,
    areas_P: np.ndarray,
) -> None:
    """Add up pixels of objects within windows.

    Args:
        runs: Starts, lengths and offsets of the objects, cut where columns end.
        indices: Object of each window, int64 (P,).
        windows_P4: (y, x, bottom, right), int64.
        height: Pixels of a column.
        areas_P: int64, to which the pixels are added.
    """
    for place in range(areas_P.size):
        y, x, bottom, right = windows_P4[place]
        for run in range(runs[2][indices[place]], runs[2][indices[place] + 1]):
            column, row = runs[0][run] // height, runs[0][run] % height
            if x <= column < right:
                areas_P[place] += max(0, min(row + runs[1][run], bottom) - max(row, y))
