"""Several detections of one object become one: suppressed, or fused as boxes or as masks over the members' answers.

All of one class; a caller with several classes calls once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from histofold.core.objects.detections import checked_scores
from histofold.core.objects.instances import Objects, join_objects
from histofold.core.objects.overlaps import box_iou, overlapping_pairs, pair_coverages, pair_ious
from histofold.core.rle.runs import Runs


def mask_nms(objects: Objects, scores_N: np.ndarray, limit: float = 0.5, *, of_smaller: bool = False) -> np.ndarray:
    """Which objects stay where each, by descending score, drops all later ones that overlap it too much.

    Args:
        objects: Detections of one image.
        scores_N: Their scores; equal ones keep the given order.
        limit: Largest overlap that is left alone.
        of_smaller: Measure overlap by the smaller object's pixels, which drops fragments too, instead of by IoU.

    Returns:
        Indices by descending score, int64.

    Raises:
        ValueError: If there is not one finite score an object.
    """
    scores_N = checked_scores(scores_N, len(objects))
    pairs = overlapping_pairs(objects, objects)
    overlap = (pair_coverages if of_smaller else pair_ious)(objects, objects, pairs)
    first, second = pairs.first[overlap > limit], pairs.second[overlap > limit]
    begins = first.searchsorted(np.arange(len(objects) + 1))
    return _greedily_kept(scores_N, lambda index: second[begins[index] : begins[index + 1]])


def box_nms(boxes_N4: np.ndarray, scores_N: np.ndarray, limit: float = 0.5) -> np.ndarray:
    """`mask_nms` of boxes by their IoU, as torchvision's nms counts it; boxes as `box_iou` takes them.

    Raises:
        ValueError: If there is not one finite score a box.
    """
    scores_N = checked_scores(scores_N, len(boxes_N4))
    return _greedily_kept(scores_N, lambda index: box_iou(boxes_N4[index : index + 1], boxes_N4)[0] > limit)


def _greedily_kept(scores_N: np.ndarray, rivals: Callable[[int], np.ndarray]) -> np.ndarray:
    """Indices that no kept one of higher score has among its rivals."""
    kept, dropped_N = [], np.zeros(len(scores_N), bool)
    for index in np.argsort(-scores_N, kind="stable"):
        if not dropped_N[index]:
            kept.append(index)
            dropped_N[rivals(index)] = True
    return np.array(kept, np.int64)


def weighted_boxes_fusion(
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    iou: float = 0.55,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of several members as one list.

    All boxes come up by descending score (times the member's weight). Each joins the fused box that it overlaps best,
    if their IoU is above `iou`, else it founds one. A fused box is the mean of its boxes weighted by their scores, and
    moves as they come. Its score is their mean, times the share of members that it could have come from: boxes (at most
    one a member) over the sum of weights.

    Source: Solovyev, Wang, Gabruseva, Weighted boxes fusion: Ensembling boxes from different object detection models,
    Image and Vision Computing 107, 2021, https://arxiv.org/abs/1910.13302

    Args:
        boxes: One boxes_N4 a member, as `box_iou` takes them; a member that found nothing gives (0, 4).
        scores: One scores_N a member, above 0.
        weights: One weight a member, above 0; None: all 1.
        iou: Overlap above which boxes are of one object.

    Returns:
        boxes_M4 and scores_M, float64, by descending score.

    Raises:
        ValueError: If boxes, scores and weights do not fit together, or one is not above 0.
    """
    weighted_N, total = _weighted_scores([len(part) for part in boxes], scores, weights)
    order = np.argsort(-weighted_N, kind="stable")
    boxes_N4 = np.concatenate([np.zeros((0, 4)), *(np.asarray(part, np.float64).reshape(-1, 4) for part in boxes)])
    fused_M4, box_sums_M4 = np.zeros((len(order), 4)), np.zeros((len(order), 4))
    score_sums_M, sizes_M, count = np.zeros(len(order)), np.zeros(len(order), np.int64), 0
    for index in order:
        box_14, score = boxes_N4[index : index + 1], weighted_N[index]
        iou_M = box_iou(box_14, fused_M4[:count])[0]
        place = int(iou_M.argmax()) if count else 0
        if count == 0 or iou_M[place] <= iou:
            place, count = count, count + 1
        box_sums_M4[place] += score * box_14[0]
        score_sums_M[place] += score
        sizes_M[place] += 1
        # A lone box stays as it is, to the last digit.
        fused_M4[place] = box_14[0] if sizes_M[place] == 1 else box_sums_M4[place] / score_sums_M[place]
    fused_scores_M = _fused_scores(score_sums_M[:count], sizes_M[:count], len(boxes), total)
    ranked = np.argsort(-fused_scores_M, kind="stable")
    return fused_M4[ranked], fused_scores_M[ranked]


def fuse_masks(
    detections: Sequence[tuple[Objects, np.ndarray]], weights: Sequence[float] | None = None, iou: float = 0.5
) -> tuple[Objects, np.ndarray]:
    """Objects of several members as one list.

    All objects come up by descending score (times the member's weight). Each joins the group whose first object it
    overlaps best, if their IoU is above `iou`, else it founds one. A group becomes the pixels that at least half of its
    objects hold, each counted by its score; its own score is that of `weighted_boxes_fusion`.

    Args:
        detections: (objects, scores_N) of each member, of one image; scores above 0.
        weights: One weight a member, above 0; None: all 1.
        iou: Overlap above which objects are one.

    Returns:
        Objects and scores_M, float64, by descending score.

    Raises:
        ValueError: If objects, scores and weights do not fit together, one is not above 0, or the sizes differ.
    """
    objects = join_objects([part for part, _ in detections])
    weighted_N, total = _weighted_scores(
        [len(part) for part, _ in detections], [scores_N for _, scores_N in detections], weights
    )
    groups = _object_groups(objects, weighted_N, iou)
    sums_M = np.array([weighted_N[group].sum() for group in groups])
    scores_M = _fused_scores(sums_M, np.array([len(group) for group in groups]), len(detections), total)
    ranked = np.argsort(-scores_M, kind="stable")
    fused = [_majority(objects.select(np.array(groups[place])), weighted_N[groups[place]]) for place in ranked]
    return Objects.from_runs(fused, objects.shape_hw), scores_M[ranked]


def _weighted_scores(
    counts: Sequence[int], scores: Sequence[np.ndarray], weights: Sequence[float] | None
) -> tuple[np.ndarray, float]:
    """All scores times their member's weight, float64 (N,), and the sum of weights."""
    weights = [1.0] * len(counts) if weights is None else list(weights)
    if not counts or not len(counts) == len(scores) == len(weights):
        raise ValueError(
            f"detections of {len(counts)} members, scores of {len(scores)}, {len(weights)} weights: give each member "
            "one of each, and at least one member"
        )
    parts = [checked_scores(part, count) * weight for part, count, weight in zip(scores, counts, weights, strict=True)]
    weighted_N = np.concatenate(parts)
    if not min(weights) > 0 or not (weighted_N > 0).all():
        raise ValueError("scores and weights must be above 0: drop the detections and members that count for nothing")
    return weighted_N, float(sum(weights))


def _fused_scores(sums_M: np.ndarray, sizes_M: np.ndarray, members: int, total_weight: float) -> np.ndarray:
    """Mean score of each group, lowered where fewer detections than members agree."""
    return np.asarray(sums_M / np.maximum(sizes_M, 1) * np.minimum(sizes_M, members) / total_weight)


def _object_groups(objects: Objects, scores_N: np.ndarray, iou: float) -> list[list[int]]:
    """Indices of each group, its first object first."""
    pairs = overlapping_pairs(objects, objects)
    iou_P = pair_ious(objects, objects, pairs)
    begins = pairs.first.searchsorted(np.arange(len(objects) + 1))
    groups: list[list[int]] = []
    group_of_lead = np.full(len(objects), -1)
    for index in np.argsort(-scores_N, kind="stable").tolist():
        near = slice(begins[index], begins[index + 1])
        groups_near = group_of_lead[pairs.second[near]]
        fitting = np.where(groups_near >= 0, iou_P[near], 0)
        best = int(fitting.argmax()) if fitting.size else 0
        if fitting.size and fitting[best] > iou:
            groups[groups_near[best]].append(index)
        else:
            group_of_lead[index] = len(groups)
            groups.append([index])
    return groups


def _majority(objects: Objects, scores_N: np.ndarray) -> Runs:
    """The pixels that objects of at least half of the scores hold."""
    votes = np.repeat(scores_N, np.diff(objects.offsets))
    bounds = np.concatenate([objects.starts, objects.starts + objects.lengths])
    positions, place = np.unique(bounds, return_inverse=True)
    held = np.cumsum(np.bincount(place, np.concatenate([votes, -votes]), minlength=len(positions)))
    # A sum of floats may miss an exact half by its last digits.
    inside = held >= scores_N.sum() * (0.5 - 1e-9)
    changes = positions[np.flatnonzero(np.diff(inside, prepend=False))]
    return Runs(changes[::2], changes[1::2] - changes[::2], objects.shape_hw)
