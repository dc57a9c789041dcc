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
from functools import lru_cache

import cv2
import numpy as np

from histofold.core.jit import HAS_NUMBA, njit
from histofold.core.rle.paint import clip_lines
from histofold.core.rle.runs import Runs

TRIANGLE_WEIGHT_BITS = 14
TRIANGLE_KEPT_BITS = 6  # of a grey level, between the axes
_ROW_SHIFT = TRIANGLE_WEIGHT_BITS - TRIANGLE_KEPT_BITS
_COLUMN_SHIFT = TRIANGLE_WEIGHT_BITS + TRIANGLE_KEPT_BITS
_TRIANGLE_VALUES = 1 << 19  # between the axes that stay in the processor's cache
_AREA_RUNS = 1 << 16  # taken at once, so few that double precision holds sums of their areas exactly


def area_sums(runs: Runs, rows: range, columns: range, scaled_hw: tuple[int, int]) -> np.ndarray:
    """The mask's area within each scaled pixel, in whole numbers, found from its runs without painting them.

    In units of 1/scaled of a source pixel, scaled pixel j of an axis covers [j * length, (j + 1) * length) and source
    pixel i covers [i * scaled, (i + 1) * scaled). A run is a rectangle, so its area in a scaled pixel is the product of
    its overlaps along both axes. An overlap changes from pixel to pixel at the rectangle's two edges alone; what all
    runs change is added up over the axes in the end (the summed-area table of Crow 1984, doi:10.1145/800031.808600).

    Args:
        runs: The whole source mask.
        rows: Scaled rows wanted.
        columns: Scaled columns wanted.
        scaled_hw: Height and width of the whole scaled mask.

    Returns:
        float64 (len(rows), len(columns)), whole numbers from 0 to the source mask's number of pixels, H * W.
    """
    axes = [*zip((rows, columns), runs.shape_hw, scaled_hw, strict=True)]
    across, along = axes[::-1] if runs.order == "F" else axes  # the lines of the runs
    lines, span = (
        (pixels.start * length // scaled, -(-pixels.stop * length // scaled))
        for pixels, length, scaled in (across, along)
    )
    starts, lengths = clip_lines(runs.starts, runs.lengths, runs.line_length, lines, span)
    areas_HW = np.zeros((len(rows) + 2, len(columns) + 2))
    for first in range(0, len(starts), _AREA_RUNS):
        part = slice(first, first + _AREA_RUNS)
        line, begin = np.divmod(starts[part], span[1] - span[0])
        edges = _overlap_steps(line + lines[0], 1, *across), _overlap_steps(begin + span[0], lengths[part], *along)
        (y_4N, y_steps_4N), (x_4N, x_steps_4N) = edges[::-1] if runs.order == "F" else edges
        cells_44N = y_4N[:, np.newaxis] * areas_HW.shape[1] + x_4N
        steps_44N = y_steps_4N[:, np.newaxis] * x_steps_4N
        changes = np.bincount(cells_44N.ravel(), steps_44N.ravel(), areas_HW.size)
        areas_HW += changes.reshape(areas_HW.shape)
    return cv2.integral(areas_HW, sdepth=cv2.CV_64F)[1:-2, 1:-2]


def _overlap_steps(
    first: np.ndarray, count: np.ndarray | int, pixels: range, length: int, scaled: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the overlaps of stretches of source pixels with scaled pixels change, and by how much, int64 (4, N)."""
    edges_2N = np.stack([first, first + count]) * scaled - pixels.start * length
    cells_2N, parts_2N = np.divmod(np.clip(edges_2N, 0, len(pixels) * length), length)
    steps_4N = np.concatenate([length - parts_2N, parts_2N])
    steps_4N[1::2] *= -1
    return np.concatenate([cells_2N, cells_2N + 1]), steps_4N


@lru_cache(64)
def triangle_taps(pixels: range, length: int, scaled: int) -> tuple[np.ndarray, np.ndarray]:
    """What the scaled pixels of an axis are made of.

    Args:
        pixels: Scaled pixels wanted.
        length: Source pixels of the whole axis.
        scaled: Scaled pixels of the whole axis.

    Returns:
        First source pixel, int64 (n,), and weights of it and the following ones, int32 (n, taps), each row adding up
        to 2^14. They are shared: change neither.
    """
    step = length / scaled
    support = max(step, 1.0)
    taps = min(length, math.ceil(2 * support))
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
    blend = _blend_rows_jit if HAS_NUMBA else _blend_rows_numpy
    source_HB = np.ascontiguousarray(source_HWC).reshape(height, width * channels)
    down, down_weights = triangle_taps(rows, shape_hw[0], scaled_hw[0])
    across, across_weights = triangle_taps(columns, shape_hw[1], scaled_hw[1])
    target_HB = np.empty((len(rows), len(columns) * channels), np.uint8)
    step = max(16, _TRIANGLE_VALUES // (width * channels))
    for top in range(0, len(rows), step):
        part = slice(top, top + step)
        blended_HB = np.empty((len(down[part]), width * channels), np.uint16)
        blend(source_HB, down[part] - down[0], down_weights[part], _ROW_SHIFT, blended_HB)
        # Turned, so that the columns are blended as the rows are: many values by the same weight.
        turned_WB = cv2.transpose(blended_HB).reshape(width, -1)
        scaled_WB = np.empty((len(columns), turned_WB.shape[1]), np.uint8)
        blend(turned_WB, across - across[0], across_weights, _COLUMN_SHIFT, scaled_WB)
        target_HB[part] = cv2.transpose(scaled_WB.reshape(len(columns) * channels, -1))
    return target_HB.reshape(len(rows), len(columns), channels)


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
    """As `_blend_rows_numpy`, four rows at a time; a shift that is a constant is twice as fast."""
    last, width = source_HB.shape[0] - 1, source_HB.shape[1]
    taps = np.zeros((firsts.size, (weights.shape[1] + 3) // 4 * 4), np.int32)
    taps[:, : weights.shape[1]] = weights
    sums = np.empty(width, np.int32)
    for place in range(firsts.size):
        sums[:] = 1 << (shift - 1)
        for tap in range(0, taps.shape[1], 4):
            w0, w1, w2, w3 = taps[place, tap], taps[place, tap + 1], taps[place, tap + 2], taps[place, tap + 3]
            row = firsts[place] + tap
            row0, row1 = source_HB[min(row, last)], source_HB[min(row + 1, last)]
            row2, row3 = source_HB[min(row + 2, last)], source_HB[min(row + 3, last)]
            for i in range(width):
                first = w0 * np.int32(row0[i]) + w1 * np.int32(row1[i])
                sums[i] += first + w2 * np.int32(row2[i]) + w3 * np.int32(row3[i])
        target = target_HB[place]
        if shift == _ROW_SHIFT:
            for i in range(width):
                target[i] = sums[i] >> _ROW_SHIFT
        else:
            for i in range(width):
                target[i] = sums[i] >> _COLUMN_SHIFT
