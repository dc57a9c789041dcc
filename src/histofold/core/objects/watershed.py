"""Objects from dense maps: markers are flooded over the foreground, the most central pixels first."""

from __future__ import annotations

import heapq

import numpy as np
from scipy import ndimage

from histofold.core.jit import njit

NEIGHBOURS = ((1, 1, 1),) * 3  # pixels that share but a corner touch, as for components everywhere


def watershed_labels(
    probs_HW: np.ndarray,
    boundary_HW: np.ndarray,
    distance_HW: np.ndarray,
    *,
    threshold: float,
    marker: float,
    min_area_px: float = 0,
) -> np.ndarray:
    """Objects by a watershed of the distance that is grown from markers.

    Foreground is where the probability of an object reaches `threshold`. A marker is a component of the foreground
    where distance less boundary reaches `marker`; from all markers at once the foreground is flooded by descending
    distance, of equal ones the pixel that was reached first. A component of the foreground without a marker is one
    object. The result depends on nothing but the maps.

    Source: S. Beucher, F. Meyer, The morphological approach to segmentation: the watershed transformation, in
    Mathematical Morphology in Image Processing, 1993; the flooding is that of skimage.segmentation.watershed.

    Args:
        probs_HW: Probability that a pixel belongs to an object, 0 to 1.
        boundary_HW: Probability that it belongs to an object's boundary, 0 to 1.
        distance_HW: How deep it lies within its object, 0 to 1.
        threshold: Least probability of the foreground.
        marker: Least distance less boundary of a marker, -1 to 1.
        min_area_px: Smaller objects are left out, in pixels.

    Returns:
        Labels int32 (H, W), 0 = background, without gaps: objects with a marker by their marker's first pixel row by
        row, then those without.

    Raises:
        ValueError: If the maps differ in size.
    """
    if not np.ndim(probs_HW) == 2 or not np.shape(probs_HW) == np.shape(boundary_HW) == np.shape(distance_HW):
        raise ValueError(
            f"maps of {np.shape(probs_HW)}, {np.shape(boundary_HW)} and {np.shape(distance_HW)}: needs objects, "
            "boundary and distance of one size (H, W)"
        )
    foreground_HW = np.asarray(probs_HW) >= threshold
    markers_HW, count = ndimage.label(foreground_HW & (distance_HW - boundary_HW >= marker), NEIGHBOURS)
    labels_HW = _flooded(markers_HW, foreground_HW, distance_HW)
    rest_HW, _ = ndimage.label(foreground_HW & (labels_HW == 0), NEIGHBOURS)
    labels_HW[rest_HW > 0] = rest_HW[rest_HW > 0] + count
    areas = np.bincount(labels_HW.reshape(-1))
    kept = areas >= max(min_area_px, 1)
    kept[0] = False
    return np.where(kept, kept.cumsum(), 0).astype(np.int32)[labels_HW]


def label_scores(labels_HW: np.ndarray, probs_HW: np.ndarray) -> np.ndarray:
    """Mean probability of each object, float64 (M,), by ascending label as `Objects.from_labels` orders them.

    Args:
        labels_HW: Whole numbers (H, W), 0 = background; labels may leave gaps.
        probs_HW: Probability that a pixel belongs to an object.

    Raises:
        ValueError: If the sizes differ.
    """
    if np.shape(labels_HW) != np.shape(probs_HW):
        raise ValueError(f"labels of {np.shape(labels_HW)} and probabilities of {np.shape(probs_HW)}: one size (H, W)")
    areas = np.bincount(np.reshape(labels_HW, -1))
    sums = np.bincount(np.reshape(labels_HW, -1), weights=np.reshape(probs_HW, -1))
    present = np.flatnonzero(areas[1:]) + 1
    return sums[present] / areas[present]


def _flooded(markers_HW: np.ndarray, foreground_HW: np.ndarray, distance_HW: np.ndarray) -> np.ndarray:
    """The markers grown over all of the foreground that they reach, int32 (H, W)."""
    # A frame of background spares the flooding every look at the image's ends.
    labels_HW = np.pad(np.where(foreground_HW, markers_HW, -1).astype(np.int32), 1, constant_values=-1)
    depths_HW = np.pad(np.asarray(distance_HW, np.float64), 1)
    flood_jit(labels_HW.reshape(-1), depths_HW.reshape(-1), labels_HW.shape[1])
    return np.maximum(labels_HW[1:-1, 1:-1], 0)


@njit
def flood_jit(labels: np.ndarray, depths: np.ndarray, width: int) -> None:
    """Grow labels over the pixels they reach, the deepest first, of equal ones the first reached.

    Args:
        labels: int32 (P,), row by row: a label from 1, 0 where one may grow, -1 elsewhere and all along the border.
        depths: float64 (P,).
        width: Pixels of a row.
    """
    steps = (-width, -1, 1, width, -width - 1, -width + 1, width - 1, width + 1)
    age = 0
    heap = [(0.0, 0, 0) for _ in range(0)]
    for pixel in range(labels.size):
        if labels[pixel] > 0:
            heap.append((-depths[pixel], 0, pixel))
    heapq.heapify(heap)
    while len(heap) > 0:
        pixel = heapq.heappop(heap)[2]
        for step in steps:
            if labels[pixel + step] == 0:
                age += 1
                labels[pixel + step] = labels[pixel]
                heapq.heappush(heap, (-depths[pixel + step], age, pixel + step))
