"""Sums over the area of resampled pixels, in whole numbers, so that they do not depend on how the work is cut."""

from __future__ import annotations

import cv2
import numpy as np

from histofold.core.jit import HAS_NUMBA, njit


def area_span(pixels: range, length: int, scaled: int) -> slice:
    """The source pixels that scaled pixels cover."""
    return slice(pixels.start * length // scaled, -(-pixels.stop * length // scaled))


def area_sums(
    mask_HW: np.ndarray, rows: range, columns: range, shape_hw: tuple[int, int], scaled_hw: tuple[int, int]
) -> np.ndarray:
    """The mask's area within each scaled pixel, in whole numbers.

    In units of 1/scaled of a source pixel, scaled pixel j of an axis covers [j * length, (j + 1) * length) and source
    pixel i covers [i * scaled, (i + 1) * scaled). With numba these overlaps are summed, rows first. Without it, since
    the area up to a point is bilinear within a source pixel, it is interpolated in the summed-area table (Crow 1984,
    doi:10.1145/800031.808600) at the corners of the scaled pixels; a scaled pixel's area is the difference of its four.

    Args:
        mask_HW: bool, the source pixels that `area_span` gives for the rows and columns.
        rows: Scaled rows wanted.
        columns: Scaled columns wanted.
        shape_hw: Height and width of the whole source mask.
        scaled_hw: Height and width of the whole scaled mask.

    Returns:
        int64 (len(rows), len(columns)), from 0 to the source mask's number of pixels, H * W.
    """
    values_HW = np.ascontiguousarray(mask_HW).view(np.uint8)
    y, y_part = _axis_corners(rows, shape_hw[0], scaled_hw[0])
    x, x_part = _axis_corners(columns, shape_hw[1], scaled_hw[1])
    if HAS_NUMBA:
        areas_HW = np.empty((len(rows), len(columns)), np.int64)
        _area_sums_jit(values_HW, (y, y_part, scaled_hw[0]), (x, x_part, scaled_hw[1]), areas_HW)
        return areas_HW
    sums_HW = cv2.integral(values_HW, sdepth=cv2.CV_32S)
    # Where the part is 0 the next entry does not count; the last corner may lie on the end, where there is none.
    below, right = np.minimum(y + 1, len(mask_HW)), np.minimum(x + 1, mask_HW.shape[1])
    upper_HN, lower_HN = sums_HW[y], sums_HW[below]
    corners_HW = _between(upper_HN[:, x], upper_HN[:, right], x_part, scaled_hw[1])
    lower_HW = _between(lower_HN[:, x], lower_HN[:, right], x_part, scaled_hw[1])
    corners_HW = _between(corners_HW, lower_HW, y_part[:, np.newaxis], scaled_hw[0])
    return np.diff(np.diff(corners_HW, axis=0), axis=1)


def _axis_corners(pixels: range, length: int, scaled: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the scaled pixels of an axis begin and end: whole source pixels from the first one on, and the rest."""
    points = np.arange(pixels.start, pixels.stop + 1, dtype=np.int64) * length
    return points // scaled - pixels.start * length // scaled, points % scaled


def _between(first: np.ndarray, second: np.ndarray, part: np.ndarray, whole: int) -> np.ndarray:
    """int64 values `part` of `whole` on the way from the first to the second, times `whole`."""
    between = np.subtract(second, first, dtype=np.int64)
    between *= part
    between += np.multiply(first, whole, dtype=np.int64)
    return between


@njit
def _area_sums_jit(
    values_HW: np.ndarray,
    vertical: tuple[np.ndarray, np.ndarray, int],
    horizontal: tuple[np.ndarray, np.ndarray, int],
    areas_HW: np.ndarray,
) -> None:
    """The areas of scaled pixels; of each axis the corners, as `_axis_corners` gives them, and its scaled length."""
    (y, y_part, scaled_height), (x, x_part, scaled_width) = vertical, horizontal
    height, width = values_HW.shape
    sums = np.empty(width, np.int32)
    for place in range(areas_HW.shape[0]):
        sums[:] = 0
        for row in range(y[place], min(y[place + 1] + 1, height)):
            overlap = scaled_height - (y_part[place] if row == y[place] else 0)
            if row == y[place + 1]:
                overlap -= scaled_height - y_part[place + 1]
            if overlap > 0:
                weight = np.int32(overlap)
                values = values_HW[row]
                for i in range(width):
                    sums[i] += weight * np.int32(values[i])
        for across in range(areas_HW.shape[1]):
            area = np.int64(0)
            for column in range(x[across], min(x[across + 1] + 1, width)):
                overlap = scaled_width - (x_part[across] if column == x[across] else 0)
                if column == x[across + 1]:
                    overlap -= scaled_width - x_part[across + 1]
                area += overlap * np.int64(sums[column])
            areas_HW[place, across] = area
