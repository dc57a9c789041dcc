"""The two filters of resampling, in whole numbers, so that a pixel depends on its own place alone, however work is cut.

Area, for masks: what of a scaled pixel's area the mask covers, exactly.

Triangle, for images, antialiased: scaled pixel j of an axis lies at (j + 1/2) * step - 1/2 in source pixels, step =
source length / scaled length. It is the weighted mean of the source pixels within max(step, 1) of there, weights
falling linearly to the end: Pillow's `BILINEAR`, which agrees up to its rounding between the axes. Weights are whole
numbers that add up to 2^14, so that sums are exact whatever their order; rows first, kept to 1/64 of a grey level, then
columns, rounded once.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from histofold.core.jit import HAS_NUMBA, njit

TRIANGLE_WEIGHT_BITS = 14
TRIANGLE_KEPT_BITS = 6  # of a grey level, between the axes
_TRIANGLE_BLOCK = 4096  # values whose sums stay in the processor's cache


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


def triangle_taps(pixels: range, length: int, scaled: int) -> tuple[np.ndarray, np.ndarray]:
    """What the scaled pixels of an axis are made of.

    Args:
        pixels: Scaled pixels wanted.
        length: Source pixels of the whole axis.
        scaled: Scaled pixels of the whole axis.

    Returns:
        First source pixel, int64 (n,), and weights of it and the following ones, int32 (n, taps), each row adding up
        to 2^14.
    """
    step = length / scaled
    support = max(step, 1.0)
    taps = min(length, 2 * math.ceil(support) + 1)
    places = (np.arange(pixels.start, pixels.stop) + 0.5) * step - 0.5
    firsts = np.clip(np.ceil(places - support).astype(np.int64), 0, length - taps)
    distances = np.abs(firsts[:, np.newaxis] + np.arange(taps) - places[:, np.newaxis])
    shares = np.maximum(0.0, 1 - distances / support)
    shares /= shares.sum(axis=1, keepdims=True)
    weights = np.rint(shares * (1 << TRIANGLE_WEIGHT_BITS)).astype(np.int32)
    largest = weights.argmax(axis=1)
    weights[np.arange(len(weights)), largest] += (1 << TRIANGLE_WEIGHT_BITS) - weights.sum(axis=1, dtype=np.int32)
    return firsts, weights


def triangle_span(pixels: range, length: int, scaled: int) -> slice:
    """The source pixels of an axis that scaled pixels are made of."""
    first, _ = triangle_taps(range(pixels.start, pixels.start + 1), length, scaled)
    last, weights = triangle_taps(range(pixels.stop - 1, pixels.stop), length, scaled)
    return slice(int(first[0]), int(last[0]) + weights.shape[1])


def triangle_resize(
    source_HWC: np.ndarray, rows: range, columns: range, shape_hw: tuple[int, int], scaled_hw: tuple[int, int]
) -> np.ndarray:
    """A region of a scaled image.

    Args:
        source_HWC: uint8, the source pixels that `triangle_span` gives for the rows and columns.
        rows: Scaled rows wanted.
        columns: Scaled columns wanted.
        shape_hw: Height and width of the whole source image.
        scaled_hw: Height and width of the whole scaled image.

    Returns:
        uint8 (len(rows), len(columns), C), at least three channels.
    """
    height, width, channels = source_HWC.shape
    firsts, weights = triangle_taps(rows, shape_hw[0], scaled_hw[0])
    blended_HWC = np.empty((len(rows), width, channels), np.uint16)
    blend_rows = _blend_rows_jit if HAS_NUMBA else _blend_rows_numpy
    source_HB = np.ascontiguousarray(source_HWC).reshape(height, width * channels)
    shift = TRIANGLE_WEIGHT_BITS - TRIANGLE_KEPT_BITS
    blend_rows(source_HB, firsts - firsts[0], weights, shift, blended_HWC.reshape(len(rows), width * channels))
    firsts, weights = triangle_taps(columns, shape_hw[1], scaled_hw[1])
    target_HWC = np.empty((len(rows), len(columns), channels), np.uint8)
    if HAS_NUMBA:
        for channel in range(0, channels, 3):  # of more than three the last ones overlap
            three = slice(min(channel, channels - 3), min(channel, channels - 3) + 3)
            _blend_columns_jit(blended_HWC[..., three], firsts - firsts[0], weights, target_HWC[..., three])
    else:
        turned_WB = np.ascontiguousarray(blended_HWC.transpose(1, 0, 2)).reshape(width, len(rows) * channels)
        turned_HB = np.empty((len(columns), len(rows) * channels), np.uint8)
        shift = TRIANGLE_WEIGHT_BITS + TRIANGLE_KEPT_BITS
        _blend_rows_numpy(turned_WB, firsts - firsts[0], weights, shift, turned_HB)
        target_HWC[...] = turned_HB.reshape(len(columns), len(rows), channels).transpose(1, 0, 2)
    return target_HWC


def _blend_rows_numpy(
    source_HB: np.ndarray, firsts: np.ndarray, weights: np.ndarray, shift: int, target_HB: np.ndarray
) -> None:
    """Weighted sums of rows, divided by 2^shift and rounded; double precision holds them exactly."""
    half = 1 << (shift - 1)
    for place, first in enumerate(firsts):
        rows_TB = source_HB[first : first + weights.shape[1]].astype(np.float64)
        target_HB[place] = (weights[place].astype(np.float64) @ rows_TB).astype(np.int64) + half >> shift


@njit
def _blend_rows_jit(
    source_HB: np.ndarray, firsts: np.ndarray, weights: np.ndarray, shift: int, target_HB: np.ndarray
) -> None:
    """As `_blend_rows_numpy`, for uint8 sources."""
    width = source_HB.shape[1]
    sums = np.empty(_TRIANGLE_BLOCK, np.int32)
    for left in range(0, width, _TRIANGLE_BLOCK):
        count = min(_TRIANGLE_BLOCK, width - left)
        for place in range(firsts.size):
            sums[:count] = 1 << (shift - 1)
            for tap in range(weights.shape[1]):
                weight = weights[place, tap]
                if weight != 0:
                    row = source_HB[firsts[place] + tap, left : left + count]
                    for i in range(count):
                        sums[i] += weight * np.int32(row[i])
            target = target_HB[place, left : left + count]
            for i in range(count):
                target[i] = np.uint16(sums[i] >> shift)


@njit
def _blend_columns_jit(source_HWC: np.ndarray, firsts: np.ndarray, weights: np.ndarray, target_HWC: np.ndarray) -> None:
    """Weighted sums of columns of an image of three channels, in 1/64 of a grey level, rounded to grey levels."""
    shift = TRIANGLE_WEIGHT_BITS + TRIANGLE_KEPT_BITS
    half = np.int32(1 << (shift - 1))
    for y in range(source_HWC.shape[0]):
        for place in range(firsts.size):
            red, green, blue = half, half, half
            for tap in range(weights.shape[1]):
                weight, x = weights[place, tap], firsts[place] + tap
                red += weight * np.int32(source_HWC[y, x, 0])
                green += weight * np.int32(source_HWC[y, x, 1])
                blue += weight * np.int32(source_HWC[y, x, 2])
            target_HWC[y, place, 0] = np.uint8(red >> shift)
            target_HWC[y, place, 1] = np.uint8(green >> shift)
            target_HWC[y, place, 2] = np.uint8(blue >> shift)
