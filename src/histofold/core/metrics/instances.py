"""Metrics of unscored objects: aggregated Jaccard index and panoptic quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histofold.core.objects.instances import Objects, as_objects
from histofold.core.objects.overlaps import Pairs, overlapping_pairs, pair_ious

LabelsOrMasks = Objects | np.ndarray | Sequence[np.ndarray]
"""Objects of one image: whole numbers (H, W) with 0 as background, a list of bool masks (H, W), which may overlap and
may be empty, or `Objects`. Masks without a pixel count as no objects."""


def aji(predicted: LabelsOrMasks, true: LabelsOrMasks) -> float:
    """Aggregated Jaccard index of one image, 0 to 1; both empty counts as 1, one empty as 0.

    Each true object is paired with the predicted one of the highest IoU (of equal ones the first), which other true
    objects may take too. The shared pixels of all pairs are divided by their unions, to which true objects that nothing
    overlaps and predicted objects that no pair holds add all their pixels.

    Source: Kumar et al., A Dataset and a Technique for Generalized Nuclear Segmentation for Computational Pathology,
    IEEE TMI 36(7), 2017, algorithm 1.

    Args:
        predicted: Label image (H, W), list of masks, or `Objects`.
        true: Likewise, of the same size.

    Raises:
        ValueError: If one is neither, or the sizes differ.

    Example:
        >>> aji(np.array([[1, 1, 0], [0, 2, 2]]), np.array([[1, 1, 1], [0, 0, 0]]))
        0.4
    """
    found, truth = checked_objects(predicted, true)
    if len(found) == 0 or len(truth) == 0:
        return float(len(found) == len(truth))
    pairs = overlapping_pairs(truth, found)
    # By true object, then descending IoU, then index: the first of each true object is its partner.
    order = np.lexsort((pairs.second, -pair_ious(truth, found, pairs), pairs.first))
    _, firsts = np.unique(pairs.first[order], return_index=True)
    chosen = order[firsts]
    shared = int(pairs.shared[chosen].sum())
    partners = pairs.second[chosen]
    unused = np.ones(len(found), bool)
    unused[partners] = False
    union = int(truth.areas.sum() + found.areas[partners].sum() + found.areas[unused].sum()) - shared
    return shared / union


def panoptic_quality(predicted: LabelsOrMasks, true: LabelsOrMasks) -> tuple[float, float, float]:
    """Panoptic quality of one image, and its parts.

    Objects match above an IoU of 0.5. Where the objects of an image do not overlap each has then at most one partner;
    where they do, pairs are made by descending IoU (of equal ones the first true, then the first predicted object).

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, https://arxiv.org/abs/1801.00868

    Args:
        predicted: Label image (H, W), list of masks, or `Objects`.
        true: Likewise, of the same size.

    Returns:
        (pq, dq, sq), each 0 to 1: pq = dq * sq; dq, detection quality, is the F1 of the matches; sq, segmentation
        quality, their mean IoU, 0 without a match. Both empty: all 1; one empty: all 0.

    Raises:
        ValueError: If one is neither, or the sizes differ.

    Example:
        >>> panoptic_quality(np.array([[1, 1, 0], [0, 2, 2]]), np.array([[1, 1, 1], [0, 0, 0]]))
        (0.4444444444444444, 0.6666666666666666, 0.6666666666666666)
    """
    found, truth = checked_objects(predicted, true)
    if len(found) == 0 or len(truth) == 0:
        empty = float(len(found) == len(truth))
        return empty, empty, empty
    pairs = overlapping_pairs(truth, found)
    ious = pair_ious(truth, found, pairs)
    matched = ious[matched_pairs(pairs, ious, ious > 0.5)].tolist()
    detection = 2 * len(matched) / (len(found) + len(truth))
    segmentation = sum(matched) / len(matched) if matched else 0.0
    return detection * segmentation, detection, segmentation


def matched_pairs(pairs: Pairs, ious: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Pairs in which each object stands at most once, taken by descending IoU.

    Args:
        pairs: Pairs of objects.
        ious: IoU of each, (P,); of equal ones the first of the first objects, then of the second.
        eligible: Which pairs may be taken, bool (P,).

    Returns:
        Indices of the pairs, by descending IoU.
    """
    matched = []
    first_taken, second_taken = set[int](), set[int]()
    for pair in np.lexsort((pairs.second, pairs.first, -ious)).tolist():
        first, second = int(pairs.first[pair]), int(pairs.second[pair])
        if eligible[pair] and first not in first_taken and second not in second_taken:
            first_taken.add(first)
            second_taken.add(second)
            matched.append(pair)
    return np.array(matched, np.int64)


def checked_objects(predicted: LabelsOrMasks, true: LabelsOrMasks) -> tuple[Objects, Objects]:
    """Predicted and true objects that have a pixel; errors are those of `sized_objects`."""
    found, truth = sized_objects(predicted, true)
    return found.select(found.areas > 0), truth.select(truth.areas > 0)


def sized_objects(predicted: LabelsOrMasks, true: LabelsOrMasks) -> tuple[Objects, Objects]:
    """Predicted and true objects of one image.

    Raises:
        ValueError: If one is neither a label image nor masks, or the sizes differ.
    """
    found, truth = as_objects(predicted), as_objects(true)
    if found.shape_hw != truth.shape_hw and len(found) and len(truth):
        raise ValueError(
            f"predicted objects are {found.shape_hw} and true ones {truth.shape_hw} px (H, W): bring the prediction to "
            "the truth's size first"
        )
    return found, truth
