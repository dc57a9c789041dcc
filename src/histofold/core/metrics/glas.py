"""The three scores of the gland challenge GlaS: object F1, object Dice, object Hausdorff distance."""

from __future__ import annotations

import math

import numpy as np

from histofold.core.metrics.instances import LabelsOrMasks, checked_objects
from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import Pairs, overlapping_pairs


def glas_object_scores(predicted: LabelsOrMasks, true: LabelsOrMasks) -> tuple[float, float, float]:
    """Object F1, object Dice and object Hausdorff distance of one image.

    The partner of an object is the one of the other side with which it shares most pixels (of equal ones the first).
    F1: a predicted object is a hit if it has more than half of its partner's pixels, as the challenge's code counts;
    a true object is found once, further hits of it (possible where masks overlap) are false alarms.
    Dice and Hausdorff distance: those of each object and its partner, weighted by the object's share of its side's
    pixels, mean of both sides. An object that nothing overlaps has a Dice of 0, and the smallest of its Hausdorff
    distances to the objects of the other side.

    Source: Sirinukunwattana et al., Gland Segmentation in Colon Histology Images: The GlaS Challenge Contest, Medical
    Image Analysis 35, 2017, https://arxiv.org/abs/1603.00275, and the challenge's own evaluation code.

    Args:
        predicted: Label image (H, W), list of masks, or `Objects`.
        true: Likewise, of the same size.

    Returns:
        (f1, dice, hausdorff): 0 to 1, 0 to 1, pixels. Both empty: (1, 1, 0); one empty: (0, 0, inf).

    Raises:
        ValueError: If one is neither, or the sizes differ.

    Example:
        >>> glas_object_scores(np.array([[1, 1, 0], [0, 2, 2]]), np.array([[2, 2, 0], [0, 7, 7]]))
        (1.0, 1.0, 0.0)
    """
    found, truth = checked_objects(predicted, true)
    if len(found) == 0 or len(truth) == 0:
        return (1.0, 1.0, 0.0) if len(found) == len(truth) else (0.0, 0.0, math.inf)
    pairs = overlapping_pairs(found, truth)
    mirrored = Pairs(pairs.second, pairs.first, pairs.shared)
    partner, shared = _partners(pairs, len(found))
    found_once = np.unique(partner[shared > truth.areas[partner] / 2])
    sides = [(found, truth, partner, shared), (truth, found, *_partners(mirrored, len(truth)))]
    return (
        2 * len(found_once) / (len(found) + len(truth)),
        sum(_mean_dice(*side) for side in sides) / 2,
        sum(_mean_distance(*side) for side in sides) / 2,
    )


def _partners(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each first object the second with which it shares most, and the pixels shared: int64 (N,) both, 0 if none."""
    partner, shared = np.zeros(count, np.int64), np.zeros(count, np.int64)
    order = np.lexsort(
        (-pairs.second, pairs.shared)
    )  # the last one written stays: most pixels, of equal ones the first
    partner[pairs.first[order]], shared[pairs.first[order]] = pairs.second[order], pairs.shared[order]
    return partner, shared


def _mean_dice(objects: Objects, others: Objects, partner: np.ndarray, shared: np.ndarray) -> float:
    """Dice of each object and its partner, weighted by the object's pixels."""
    dice_N = 2 * shared / (objects.areas + others.areas[partner])
    return float(np.average(dice_N, weights=objects.areas))


def _mean_distance(objects: Objects, others: Objects, partner: np.ndarray, shared: np.ndarray) -> float:
    """Hausdorff distance of each object and its partner, or else the nearest object, weighted by its pixels."""
    distance_N = [
        _hausdorff(objects, index, others, partner[index]) if shared[index] else _nearest(objects, index, others)
        for index in range(len(objects))
    ]
    return float(np.average(distance_N, weights=objects.areas))


def _nearest(objects: Objects, index: int, others: Objects) -> float:
    """Smallest Hausdorff distance of an object to the others, in pixels."""
    # No distance is below the difference of any two edges of the boxes, which leaves few objects to be measured.
    bounds = np.abs(others.boxes - objects.boxes[index]).max(axis=1)
    smallest = math.inf
    for other in bounds.argsort(kind="stable"):
        if bounds[other] >= smallest:
            break
        smallest = min(smallest, _hausdorff(objects, index, others, other))
    return smallest


def _hausdorff(objects: Objects, index: int, others: Objects, other: int) -> float:
    """Hausdorff distance of two objects' pixels: the farthest that a pixel of one lies from the other."""
    from scipy.ndimage import distance_transform_edt  # here, since core loads without scipy

    boxes_24 = np.stack([objects.boxes[index], others.boxes[other]])
    window = (*boxes_24[:, :2].min(axis=0).tolist(), *boxes_24[:, 2:].max(axis=0).tolist())
    masks = [runs.to_window(window) for runs in (objects[index], others[other])]
    return max(
        float(distance_transform_edt(~there)[here].max()) for here, there in (tuple(masks), tuple(reversed(masks)))
    )
