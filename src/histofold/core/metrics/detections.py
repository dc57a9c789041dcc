"""Average precision of scored objects, by the rules of Open Images and of COCO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.objects.overlaps import overlapping_pairs, pairwise_iou
from histofold.core.rle.sets import union_runs

Instances = np.ndarray | Objects
"""Instances of one image: masks_NHW of any dtype, non-zero = mask, or `Objects`, which take far less memory."""
Scored = tuple[Instances, np.ndarray] | Detections
"""Instances of one image with a score each."""


def openimages_ap(
    detections: Sequence[Scored],
    truths: Sequence[Instances],
    iou: float = 0.6,
    *,
    ignored: Sequence[Instances] | None = None,
) -> float:
    """Average precision of instances of one class by the rule of Open Images.

    Detections come up by descending score. Each looks only at the truth it overlaps best: a hit if their IoU reaches
    `iou` and no earlier detection took that truth, else a false alarm; there is no second choice, unlike COCO. The
    images are pooled, precision is made monotone from the right, and the area under all its points is exact.

    Source: the evaluation page of hubmap-hacking-the-human-vasculature, and
    https://storage.googleapis.com/openimages/web/evaluation.html

    Args:
        detections: One (masks_NHW, scores_N), or `Detections`, an image. Masks of any dtype, non-zero = mask, or
            `Objects`; equal scores keep the given order, image by image. No detection: empty arrays of any dtype, shape
            (0,) or (0, H, W).
        truths: One masks_NHW, or `Objects`, an image, in the same order; empty likewise. An empty truth mask counts as
            a truth.
        iou: Least IoU of a hit, above 0 and at most 1.
        ignored: What is unsure in each image, one entry an image like the truths. A detection that is no hit, and of
            whose pixels at least half lie in the union of its image's ignored objects, counts neither way. This rule is
            ours; what a host does with unsure objects is its own affair. None: every detection counts.

    Returns:
        0 to 1; NaN if there is no truth in any image, where precision and recall say nothing.

    Raises:
        ValueError: If images, masks, scores or sizes do not fit together, a score is not finite, or `iou` is no IoU.
    """
    images = _checked_images(detections, truths, iou, ignored)
    hits = [openimages_hits(image.found, image.scores, image.true, iou) for image in images]
    return _pooled_ap(hits, images, _area_under_envelope)


def coco_ap(
    detections: Sequence[Scored],
    truths: Sequence[Instances],
    iou: float = 0.5,
    max_detections: int = 100,
    *,
    ignored: Sequence[Instances] | None = None,
) -> float:
    """Average precision of masks of one class by the rule of COCO, at one IoU, without its crowds.

    Detections come up by descending score, the best `max_detections` of each image. Each takes the free truth that it
    overlaps best (of equal ones the last), if their IoU reaches `iou`. The images are pooled; precision, made monotone
    from the right, is averaged at the recalls 0, 0.01, ..., 1. A limit below the truths of an image caps the recall:
    six images with 2,360 nuclei cannot score above 0.2574 at 100 detections an image.

    Source: https://github.com/cocodataset/cocoapi, cocoeval.py, which gives the same numbers.

    Args:
        detections: As for `openimages_ap`.
        truths: As for `openimages_ap`.
        iou: Least IoU of a hit, above 0 and at most 1.
        max_detections: Detections that are looked at in each image, at least 1.
        ignored: As for `openimages_ap`; the limit of detections comes first. COCO's own crowds are another rule.

    Returns:
        0 to 1; NaN if there is no truth in any image, where pycocotools says -1.

    Raises:
        ValueError: As `openimages_ap`, and for a limit below 1.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections={max_detections}: at least 1, 100 for the server's own limit")
    images = []
    for image in _checked_images(detections, truths, iou, ignored):
        best = np.argsort(-image.scores, kind="stable")[:max_detections]
        images.append(image._replace(found=image.found.select(best), scores=image.scores[best]))
    hits = [coco_hits(image.found, image.scores, image.true, iou) for image in images]
    return _pooled_ap(hits, images, _mean_at_101_recalls)


class _Image(NamedTuple):
    """What is known of an image, checked."""

    found: Objects
    scores: np.ndarray
    true: Objects
    ignored: Objects | None


def _checked_images(
    detections: Sequence[Scored], truths: Sequence[Instances], iou: float, ignored: Sequence[Instances] | None
) -> list[_Image]:
    """What both metrics need, once it is known to fit together."""
    if not 0 < iou <= 1:
        raise ValueError(f"iou={iou} must be above 0 and at most 1")
    if len(detections) != len(truths):
        raise ValueError(f"detections of {len(detections)} images, truths of {len(truths)}: give one entry an image")
    if ignored is not None and len(ignored) != len(truths):
        raise ValueError(f"truths of {len(truths)} images, ignored objects of {len(ignored)}: give one entry an image")
    images = []
    for image, (detection, truth) in enumerate(zip(detections, truths, strict=True)):
        found, scores_N = _checked_detections(detection, image)
        true = _checked_instances(truth, f"truth of image {image}")
        unsure = None if ignored is None else _checked_instances(ignored[image], f"ignored objects of image {image}")
        for what, others in (("truths", true), ("ignored objects", unsure)):
            if others is not None and len(found) and len(others) and found.shape_hw != others.shape_hw:
                raise ValueError(
                    f"image {image}: detections are {found.shape_hw} and {what} are {others.shape_hw} px (H, W): "
                    "bring both to the size of the image"
                )
        images.append(_Image(found, scores_N, true, unsure))
    return images


def _checked_instances(masks: Instances, what: str) -> Objects:
    """The masks as objects; anything without an element is no masks, whatever its shape and dtype."""
    if isinstance(masks, Objects):
        return masks
    masks_NHW = np.asarray(masks)
    if masks_NHW.size == 0:
        return Objects.from_masks([])
    if masks_NHW.ndim != 3:
        raise ValueError(f"{what}: masks must be (N, H, W), got {masks_NHW.shape}: stack one mask an instance")
    return Objects.from_masks(masks_NHW)


def _checked_detections(detection: Scored, image: int) -> tuple[Objects, np.ndarray]:
    """(objects, scores_N float64) of one image, checked against each other."""
    if isinstance(detection, Detections):
        return detection.objects, detection.scores
    if len(detection) != 2:
        raise ValueError(f"detections of image {image}: needs (masks_NHW, scores_N), got {len(detection)} parts")
    what = f"detections of image {image}"
    objects, scores = _checked_instances(detection[0], what), np.asarray(detection[1])
    scores_N = np.zeros(0) if scores.size == 0 else scores
    if scores_N.ndim != 1 or len(scores_N) != len(objects):
        raise ValueError(f"{what}: {len(objects)} masks and scores of shape {scores.shape}: give one score a mask")
    if scores_N.dtype.kind not in "biuf" or not np.isfinite(scores_N).all():
        raise ValueError(f"{what}: scores must be finite numbers, got {scores_N.dtype}: drop or repair the others")
    return objects, scores_N.astype(np.float64)


def openimages_hits(found: Objects, scores_N: np.ndarray, true: Objects, iou: float) -> np.ndarray:
    """Which detections of one image are hits by the rule of Open Images, bool (N,) in the given order."""
    hits_N = np.zeros(len(found), bool)
    if len(true) == 0:
        return hits_N
    iou_NM = pairwise_iou(found, true)
    best_N, taken_M = iou_NM.argmax(axis=1), np.zeros(len(true), bool)
    for detection in np.argsort(-scores_N, kind="stable"):
        best = best_N[detection]
        if iou_NM[detection, best] >= iou and not taken_M[best]:
            hits_N[detection] = taken_M[best] = True
    return hits_N


def coco_hits(found: Objects, scores_N: np.ndarray, true: Objects, iou: float) -> np.ndarray:
    """Which detections of one image are hits by the rule of COCO, bool (N,); they come by descending score."""
    hits_N = np.zeros(len(found), bool)
    if len(true) == 0:
        return hits_N
    iou_NM = pairwise_iou(found, true)[:, ::-1]  # mirrored, so that argmax finds the last of equal ones
    for detection in range(len(scores_N)):
        best = int(iou_NM[detection].argmax())
        if iou_NM[detection, best] >= min(iou, 1 - 1e-10):
            hits_N[detection] = True
            iou_NM[:, best] = -1  # taken
    return hits_N


def _pooled_ap(image_hits: list[np.ndarray], images: list[_Image], area: Callable[[np.ndarray, int], float]) -> float:
    """The area of the hits of all images by descending score, equal scores image by image; NaN without a truth."""
    truth_count = sum(len(image.true) for image in images)
    if truth_count == 0:
        return float("nan")
    counted = [
        hits_N | ~mostly_ignored(image.found, image.ignored) for hits_N, image in zip(image_hits, images, strict=True)
    ]
    scores = np.concatenate([image.scores[counted_N] for image, counted_N in zip(images, counted, strict=True)])
    hits = np.concatenate(image_hits)[np.concatenate(counted)]
    return area(hits[np.argsort(-scores, kind="stable")], truth_count)


def mostly_ignored(found: Objects, ignored: Objects | None) -> np.ndarray:
    """Which detections have at least half of their pixels in the union of ignored objects, bool (N,)."""
    mostly_N = np.zeros(len(found), bool)
    if ignored is not None and len(ignored):
        union = Objects.from_runs([union_runs(list(ignored))], ignored.shape_hw)
        pairs = overlapping_pairs(found, union)
        mostly_N[pairs.first] = 2 * pairs.shared >= found.areas[pairs.first]
    return mostly_N


def _precision_envelope(hits: np.ndarray) -> np.ndarray:
    """Precision after each detection, made monotone from the right."""
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return np.asarray(np.maximum.accumulate(precision[::-1])[::-1])


def _area_under_envelope(hits: np.ndarray, truth_count: int) -> float:
    """Area under the monotone precision of detections ordered by rank: recall steps by 1 / truths at each hit."""
    return float(_precision_envelope(hits)[hits].sum() / truth_count)


def _mean_at_101_recalls(hits: np.ndarray, truth_count: int) -> float:
    """Mean of the monotone precision where recall first reaches 0, 0.01, ..., 1; 0 where it never does."""
    at = np.searchsorted(np.cumsum(hits) / truth_count, np.linspace(0, 1, 101))
    return float(np.append(_precision_envelope(hits), 0.0)[at].mean())
