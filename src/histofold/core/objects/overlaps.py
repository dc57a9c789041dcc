"""How much objects and boxes overlap: only pairs whose boxes meet are looked at, run by run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from histofold.core.jit import njit
from histofold.core.objects.instances import Objects

BLOCK_PAIRS = 1 << 18


class Pairs(NamedTuple):
    """The pairs of objects that share a pixel, by ascending `first`, then `second`."""

    first: np.ndarray
    """Index into the first objects, int64 (P,)."""
    second: np.ndarray
    """Index into the second objects, int64 (P,)."""
    shared: np.ndarray
    """Pixels that both have, int64 (P,), above 0."""


def overlapping_pairs(objects: Objects, others: Objects) -> Pairs:
    """All pairs that share a pixel; memory grows with those pairs, not with all of them.

    Raises:
        ValueError: If the objects are of images of different sizes.
    """
    if objects.shape_hw != others.shape_hw and len(objects) and len(others):
        raise ValueError(
            f"objects of {objects.shape_hw} and of {others.shape_hw} px (H, W): bring both to the size of the image"
        )
    # Small integers and blocks keep the comparisons of all pairs in the cache; an empty box meets nothing.
    mine_N4, theirs_M4 = objects.boxes.astype(np.int32), others.boxes.astype(np.int32)
    block = max(1, BLOCK_PAIRS // max(1, len(others)))
    blocks = [
        np.flatnonzero(_boxes_meet(mine_N4[at : at + block], theirs_M4)) + at * len(others)
        for at in range(0, len(objects), block)
    ]
    first, second = np.divmod(np.concatenate([np.zeros(0, np.int64), *blocks]), max(1, len(others)))
    shared = np.zeros(len(first), np.int64)
    _shared_jit(
        (objects.starts, objects.lengths, objects.offsets),
        (others.starts, others.lengths, others.offsets),
        (first, second),
        shared,
    )
    kept = shared > 0
    return Pairs(first[kept], second[kept], shared[kept])


def _boxes_meet(mine_N4: np.ndarray, theirs_M4: np.ndarray) -> np.ndarray:
    """Whether boxes share a pixel, bool (N, M)."""
    mine_4N1, theirs_4M = mine_N4.T[:, :, None], np.ascontiguousarray(theirs_M4.T)
    meet_NM = mine_4N1[0] < theirs_4M[2]
    meet_NM &= theirs_4M[0] < mine_4N1[2]
    meet_NM &= mine_4N1[1] < theirs_4M[3]
    meet_NM &= theirs_4M[1] < mine_4N1[3]
    return np.asarray(meet_NM)


def pair_ious(objects: Objects, others: Objects, pairs: Pairs) -> np.ndarray:
    """IoU of each of the pairs, float64 (P,)."""
    return np.asarray(pairs.shared / (objects.areas[pairs.first] + others.areas[pairs.second] - pairs.shared))


def pair_coverages(objects: Objects, others: Objects, pairs: Pairs) -> np.ndarray:
    """Share of the smaller object's pixels that both of a pair have, float64 (P,)."""
    return np.asarray(pairs.shared / np.minimum(objects.areas[pairs.first], others.areas[pairs.second]))


def pairwise_iou(objects: Objects, others: Objects) -> np.ndarray:
    """Intersection over union of all with all, float64 (N, M); an object without a pixel has 0 with everything.

    Raises:
        ValueError: If the objects are of images of different sizes.
    """
    pairs = overlapping_pairs(objects, others)
    iou_NM = np.zeros((len(objects), len(others)))
    iou_NM[pairs.first, pairs.second] = pair_ious(objects, others, pairs)
    return iou_NM


def pairwise_coverage(objects: Objects, others: Objects) -> np.ndarray:
    """Intersection over the smaller of both, float64 (N, M): 1 where one lies within the other.

    Raises:
        ValueError: If the objects are of images of different sizes.
    """
    pairs = overlapping_pairs(objects, others)
    coverage_NM = np.zeros((len(objects), len(others)))
    coverage_NM[pairs.first, pairs.second] = pair_coverages(objects, others, pairs)
    return coverage_NM


def box_iou(boxes_N4: np.ndarray, others_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, float64 (N, M); 0 where both have no area.

    Args:
        boxes_N4: (y, x, bottom, right), or (x, y, right, bottom) as networks give them: the axes are alike. In pixels
            or in shares of the image, ends excluded.
        others_M4: Boxes in the same order and unit.
    """
    boxes_N14, others_M4 = np.asarray(boxes_N4, np.float64)[:, None], np.asarray(others_M4, np.float64)
    corners = np.minimum(boxes_N14[..., 2:], others_M4[:, 2:]) - np.maximum(boxes_N14[..., :2], others_M4[:, :2])
    shared_NM = np.maximum(corners, 0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (boxes_N14, others_M4)]
    union_NM = areas[0] + areas[1] - shared_NM
    return np.divide(shared_NM, union_NM, out=np.zeros_like(shared_NM), where=union_NM > 0)


@njit
def _shared_jit(
    mine: tuple[np.ndarray, np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
    shared: np.ndarray,
) -> None:
    """Pixels that both objects of each pair have: two pointers walk along their runs.

    Args:
        mine: Starts, lengths and offsets of the first objects.
        theirs: Those of the second objects.
        pairs: Index of the first and of the second object of each pair.
        shared: int64 (P,), becomes the pixels.
    """
    for pair in range(shared.size):
        run, last = mine[2][pairs[0][pair]], mine[2][pairs[0][pair] + 1]
        other, other_last = theirs[2][pairs[1][pair]], theirs[2][pairs[1][pair] + 1]
        pixels = 0
        while run < last and other < other_last:
            end, other_end = mine[0][run] + mine[1][run], theirs[0][other] + theirs[1][other]
            pixels += max(0, min(end, other_end) - max(mine[0][run], theirs[0][other]))
            if end <= other_end:
                run += 1
            else:
                other += 1
        shared[pair] = pixels
