"""The hosts' metrics, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import permutations, product

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of two masks, 2 |A and B| / (|A| + |B|); both empty counts as 1.

    Source: the evaluation page of hubmap-organ-segmentation (mean of this over images) and Dice, Ecology 26, 1945.

    Args:
        prediction: Mask of any dtype and shape, non-zero = mask.
        truth: Mask of the same shape.

    Raises:
        ValueError: If the shapes differ; nothing is broadcast.

    Example:
        >>> dice(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 0]]))
        0.6666666666666666
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape} and truth is {truth.shape}: resize the prediction first")
    prediction_set, truth_set = prediction != 0, truth != 0
    total = int(np.count_nonzero(prediction_set)) + int(np.count_nonzero(truth_set))
    if total == 0:
        return 1.0
    return 2 * int(np.count_nonzero(prediction_set & truth_set)) / total


def openimages_ap(
    detections: Sequence[tuple[np.ndarray, np.ndarray]], truths: Sequence[np.ndarray], iou: float = 0.6
) -> float:
    """Average precision of instances of one class by the rule of Open Images.

    Detections come up by descending score. Each looks only at the truth it overlaps best: a hit if their IoU reaches
    `iou` and no earlier detection took that truth, else a false alarm; there is no second choice, unlike COCO. The
    images are pooled, precision is made monotone from the right, and the area under all its points is exact.

    Source: the evaluation page of hubmap-hacking-the-human-vasculature, and
    https://storage.googleapis.com/openimages/web/evaluation.html

    Args:
        detections: One (masks_NHW, scores_N) an image. Masks of any dtype, non-zero = mask; equal scores keep the given
            order, image by image. No detection: empty arrays of any dtype, shape (0,) or (0, H, W).
        truths: One masks_NHW an image, in the same order; empty likewise. An empty truth mask counts as a truth.
        iou: Least IoU of a hit, above 0 and at most 1.

    Returns:
        0 to 1; NaN if there is no truth in any image, where precision and recall say nothing.

    Raises:
        ValueError: If images, masks, scores or sizes do not fit together, a score is not finite, or `iou` is no IoU.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou={iou} must be above 0 and at most 1")
    if len(detections) != len(truths):
        raise ValueError(f"detections of {len(detections)} images, truths of {len(truths)}: give one entry an image")
    image_scores, image_hits, truth_count = [], [], 0
    for image, (detection, truth) in enumerate(zip(detections, truths, strict=True)):
        masks_NHW, scores_N = _checked_detections(detection, image)
        truth_MHW = _checked_instances(truth, f"truth of image {image}")
        if len(masks_NHW) and len(truth_MHW) and masks_NHW.shape[1:] != truth_MHW.shape[1:]:
            raise ValueError(
                f"image {image}: detections are {masks_NHW.shape[1:]} and truths are {truth_MHW.shape[1:]} px (H, W): "
                "bring both to the size of the image"
            )
        image_scores.append(scores_N)
        image_hits.append(_greedy_hits(masks_NHW, scores_N, truth_MHW, iou))
        truth_count += len(truth_MHW)
    if truth_count == 0:
        return float("nan")
    scores, hits = np.concatenate(image_scores), np.concatenate(image_hits)
    return _area_under_envelope(hits[np.argsort(-scores, kind="stable")], truth_count)


def _checked_instances(masks: np.ndarray, what: str) -> np.ndarray:
    """The masks as masks_NHW; anything without an element is no masks, whatever its shape and dtype."""
    masks_NHW = np.asarray(masks)
    if masks_NHW.size == 0:
        return np.zeros((0, 0, 0), bool)
    if masks_NHW.ndim != 3:
        raise ValueError(f"{what}: masks must be (N, H, W), got {masks_NHW.shape}: stack one mask an instance")
    return masks_NHW


def _checked_detections(detection: tuple[np.ndarray, np.ndarray], image: int) -> tuple[np.ndarray, np.ndarray]:
    """(masks_NHW, scores_N float64) of one image, checked against each other."""
    if len(detection) != 2:
        raise ValueError(f"detections of image {image}: needs (masks_NHW, scores_N), got {len(detection)} parts")
    what = f"detections of image {image}"
    masks_NHW, scores = _checked_instances(detection[0], what), np.asarray(detection[1])
    scores_N = np.zeros(0) if scores.size == 0 else scores
    if scores_N.ndim != 1 or len(scores_N) != len(masks_NHW):
        raise ValueError(f"{what}: {len(masks_NHW)} masks and scores of shape {scores.shape}: give one score a mask")
    if scores_N.dtype.kind not in "biuf" or not np.isfinite(scores_N).all():
        raise ValueError(f"{what}: scores must be finite numbers, got {scores_N.dtype}: drop or repair the others")
    return masks_NHW, scores_N.astype(np.float64)


def _greedy_hits(masks_NHW: np.ndarray, scores_N: np.ndarray, truth_MHW: np.ndarray, iou: float) -> np.ndarray:
    """Which detections of one image are hits, bool (N,) in the given order."""
    hits_N = np.zeros(len(masks_NHW), bool)
    if len(truth_MHW) == 0:
        return hits_N
    truth_set_MHW = truth_MHW != 0
    truth_area_M = np.count_nonzero(truth_set_MHW, axis=(1, 2))
    taken_M = np.zeros(len(truth_MHW), bool)
    for detection in np.argsort(-scores_N, kind="stable"):
        iou_M = _iou_with_each(masks_NHW[detection] != 0, truth_set_MHW, truth_area_M)
        best = int(np.argmax(iou_M))
        if iou_M[best] >= iou and not taken_M[best]:
            hits_N[detection] = taken_M[best] = True
    return hits_N


def _iou_with_each(mask_HW: np.ndarray, truth_MHW: np.ndarray, truth_area_M: np.ndarray) -> np.ndarray:
    """IoU of a bool mask with each bool truth, float64 (M,); an empty mask has 0 with everything."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if len(rows) == 0:
        return np.zeros(len(truth_MHW))
    # Only the mask's own box can overlap: whole numbers, no float copy of the stack, and most of the image is skipped.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside_HW = mask_HW[box]
    shared_M = np.count_nonzero(truth_MHW[:, *box] & inside_HW, axis=(1, 2))
    return np.asarray(shared_M / (np.count_nonzero(inside_HW) + truth_area_M - shared_M))


def _area_under_envelope(hits: np.ndarray, truth_count: int) -> float:
    """Area under the monotone precision of detections ordered by rank: recall steps by 1 / truths at each hit."""
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / truth_count)


def surface_dice(prediction_DHW: np.ndarray, truth_DHW: np.ndarray) -> float:
    """Surface Dice of two volumes at tolerance 0 and spacing 1; both empty counts as 1.

    Each 2x2x2 cube of voxels (the volume lies in one layer of zeros) holds a piece of surface whose area follows from
    which of its corners are set. The score is the area of both surfaces in the cubes that both cross, over all area.

    Source: the evaluation page of blood-vessel-segmentation and https://github.com/google-deepmind/surface-distance

    Args:
        prediction_DHW: Volume of any dtype, non-zero = mask: all slices of one group.
        truth_DHW: Volume of the same shape.

    Raises:
        ValueError: If a volume is not (D, H, W), or the shapes differ; nothing is broadcast.
    """
    if prediction_DHW.shape != truth_DHW.shape:
        raise ValueError(
            f"prediction is {prediction_DHW.shape} and truth is {truth_DHW.shape}: bring the prediction to the "
            "truth's slices and size first"
        )
    if prediction_DHW.ndim != 3:
        raise ValueError(f"volumes must be (D, H, W), got {prediction_DHW.shape}: stack the slices of one group")
    metric = SurfaceDice()
    for prediction_HW, truth_HW in zip(prediction_DHW, truth_DHW, strict=True):
        metric.add(prediction_HW, truth_HW)
    return metric.result()


class SurfaceDice:
    """`surface_dice` of slices that come one after another, exactly that of the stacked volume.

    Holds a byte a pixel of the last slice pair, never the volume; the caller may reuse its buffers after `add`.
    """

    def __init__(self) -> None:
        self._last_quads: tuple[np.ndarray, np.ndarray] | None = None
        # Cubes by code: counts are whole numbers, so the order of adding cannot change the result.
        self._surface_counts = np.zeros(256, np.int64)
        self._shared_counts = np.zeros(256, np.int64)

    def add(self, prediction_HW: np.ndarray, truth_HW: np.ndarray) -> None:
        """Take the next slice.

        Args:
            prediction_HW: Slice of any dtype, non-zero = mask.
            truth_HW: Slice of the same shape, which is also that of all slices before.

        Raises:
            ValueError: If a slice is not (H, W), or a shape differs; the slice is then not taken.
        """
        if prediction_HW.shape != truth_HW.shape:
            raise ValueError(
                f"prediction is {prediction_HW.shape} and truth is {truth_HW.shape}: resize the prediction first"
            )
        if prediction_HW.ndim != 2:
            raise ValueError(f"a slice must be (H, W), got {prediction_HW.shape}: add the slices one by one")
        quads = _surface_quads(prediction_HW), _surface_quads(truth_HW)
        last = self._last_quads or (np.zeros_like(quads[0]), np.zeros_like(quads[1]))
        if quads[0].shape != last[0].shape:
            height, width = last[0].shape
            raise ValueError(
                f"slice is {prediction_HW.shape} and those before are {(height - 1, width - 1)}: a volume's slices "
                "have one size; start a new SurfaceDice for the next group"
            )
        surface, shared = _surface_layer_counts(last, quads)
        self._surface_counts += surface
        self._shared_counts += shared
        self._last_quads = quads

    def result(self) -> float:
        """Surface Dice of the slices added so far, 0 to 1; more may follow. 1 if no slice has any mask."""
        surface_counts, shared_counts = self._surface_counts, self._shared_counts
        if self._last_quads is not None:  # the layer of zeros behind the last slice, not kept
            zeros = np.zeros_like(self._last_quads[0])
            surface, shared = _surface_layer_counts(self._last_quads, (zeros, zeros))
            surface_counts, shared_counts = surface_counts + surface, shared_counts + shared
        if not surface_counts.any():
            return 1.0
        areas = _surface_areas()
        return float(shared_counts @ areas / (surface_counts @ areas))


def _surface_quads(mask_HW: np.ndarray) -> np.ndarray:
    """Each 2x2 square of the mask in one layer of zeros as 4 bits, uint8 (H + 1, W + 1)."""
    padded = np.pad(mask_HW != 0, 1).view(np.uint8)
    pairs = padded[:, :-1] << 1 | padded[:, 1:]
    return np.asarray(pairs[:-1] << 2 | pairs[1:])


def _surface_layer_counts(
    upper: tuple[np.ndarray, np.ndarray], lower: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Cubes between two slices by code, int64 (256,): all of prediction and truth, and those where both have surface.

    Args:
        upper: Quads of prediction and truth in the slice before.
        lower: Quads of prediction and truth in the slice after, of the same shape.
    """
    codes = [before << 4 | after for before, after in zip(upper, lower, strict=True)]
    # Codes 0 and 255 hold no surface; all others do. In uint8, 255 + 1 is 0. Most cubes fall out before the counting.
    surfaces = [(code + np.uint8(1)) > 1 for code in codes]
    both = surfaces[0] & surfaces[1]
    crossed = _surface_code_counts(code[surface] for code, surface in zip(codes, surfaces, strict=True))
    return crossed, _surface_code_counts(code[both] for code in codes)


def _surface_code_counts(parts: Iterable[np.ndarray]) -> np.ndarray:
    """How often each code occurs in all parts together, int64 (256,)."""
    return np.asarray(sum(np.bincount(part, minlength=256) for part in parts), np.int64)


@cache
def _surface_areas() -> np.ndarray:
    """Area of surface in a 2x2x2 cube by its code, float64 (256,), read-only.

    Bit 7 of a code is the corner (0, 0, 0), bit 0 the corner (1, 1, 1), in (z, y, x). Rotating, mirroring or inverting
    a cube keeps its area, which leaves 14 cubes to be named: those of Lorensen and Cline, Marching cubes, 1987.
    """
    root_2, root_3 = np.sqrt(2), np.sqrt(3)
    area_of_kind = {
        0b00000000: 0.0,
        0b00000001: root_3 / 8,
        0b00000011: root_2 / 2,
        0b00000110: root_3 / 4,
        0b00011000: root_3 / 4,
        0b00000111: 1 / 2 + 3 * root_3 / 8,
        0b00010110: 3 * root_3 / 8,
        0b00011001: root_2 / 2 + root_3 / 8,
        0b00001111: 1.0,
        0b00010111: 3 * root_3 / 4,
        0b00011011: root_2 / 2 + root_3 / 2,
        0b00011110: 1 / 2 + root_3 / 2,
        0b00111100: root_2,
        0b01101001: root_3 / 2,
    }
    areas = np.full(256, np.nan)
    for code, area in area_of_kind.items():
        cube = np.unpackbits(np.array([code], np.uint8)).reshape(2, 2, 2)
        for axes, mirrored in product(permutations(range(3)), product((1, -1), repeat=3)):
            z, y, x = mirrored
            twin = int(np.packbits(cube.transpose(axes)[::z, ::y, ::x].ravel())[0])
            areas[[twin, 255 - twin]] = area
    areas.flags.writeable = False  # one array for all callers
    return areas
