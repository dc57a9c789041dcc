"""Sums over the area of resampled pixels, in whole numbers, so that they do not depend on how the work is cut."""

from __future__ import annotations

import numpy as np


def area_span(pixels: range, length: int, scaled: int) -> slice:
    """The source pixels that scaled pixels cover."""
    return slice(pixels.start * length // scaled, -(-pixels.stop * length // scaled))


def area_sums(values_NM: np.ndarray, pixels: range, origin: int, length: int, scaled: int) -> np.ndarray:
    """Sum values along the first axis over the area of each scaled pixel, in whole numbers.

    In units of 1/scaled of a source pixel, scaled pixel j covers [j * length, (j + 1) * length) and source pixel i
    covers [i * scaled, (i + 1) * scaled). The sum up to a point is that of the whole source pixels before it and a part
    of the one that holds it; the sum of an interval is the difference of two.

    Args:
        values_NM: Source values whose first row is source pixel `origin`.
        pixels: Scaled pixels wanted.
        origin: First source pixel.
        length: Source pixels of the whole axis.
        scaled: Scaled pixels of the whole axis.

    Returns:
        int64 (len(pixels), M).
    """
    sums_NM = np.zeros((len(values_NM) + 1, values_NM.shape[1]), np.int64)
    np.cumsum(values_NM, axis=0, out=sums_NM[1:])
    points = np.arange(pixels.start, pixels.stop + 1, dtype=np.int64) * length
    index, part = points // scaled - origin, points % scaled
    upper = np.minimum(index + 1, len(values_NM))  # the last point may lie on the end, where the part is 0
    up_to_NM = sums_NM[index] * (scaled - part[:, np.newaxis]) + sums_NM[upper] * part[:, np.newaxis]
    return np.diff(up_to_NM, axis=0)
