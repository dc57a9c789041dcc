"""A majority filter on runs: smooth boundaries at the original size, without the mask.

Along one line of the mask, the number of mask pixels under a disc is a sum of trapezoids, one for each run that the
disc can reach. A trapezoid is known by the four places where its slope changes. So a line costs its runs, times the
lines that the disc spans, and one pass that sums the changes up twice; the disc's width costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit
from histofold.core.regions import merge_touching, split_runs
from histofold.core.rle.runs import RunEncoder, Runs, runs_from_bounds

SMOOTH_BOUNDS = 1 << 18  # starts and ends of smoothed runs that are gathered before they are put away
SMOOTH_BAND_BYTES = 1 << 22  # of the sums of a band of lines, where numba is missing
SKIP_BITS = 6  # lines are summed, or skipped, by 64 pixels


def smooth_runs(runs: Runs, radius_px: float) -> Runs:
    """The mask with each pixel set to what most pixels of the disc around it are.

    A disc, since it moves a boundary by its curvature alone, whatever its direction; a square would round diagonal
    corners more than upright ones. Straight boundaries stay where they are. At the border only the part of the disc
    inside the image counts. Half of the pixels is no majority: then the pixel stays as it is.

    Args:
        runs: The mask.
        radius_px: Radius of the disc in pixels, need not be whole: pixels whose centres are within it count. Below 1
            the disc is the pixel alone, and nothing changes.

    Returns:
        Runs, touching ones joined.

    Raises:
        ValueError: For a radius that is negative or no finite number.
    """
    if not 0 <= radius_px < math.inf:
        raise ValueError(f"radius_px={radius_px}: a finite number of pixels, 0 or more")
    if radius_px < 1 or len(runs) == 0:
        return merge_touching(runs)
    lines = runs.shape_hw[0] * runs.shape_hw[1] // runs.line_length
    half_widths = disc_half_widths(radius_px, lines, runs.line_length)
    # A disc turned is the same disc, so lines are lines, be they rows or columns.
    pieces = split_runs(runs)
    offsets = pieces.starts.searchsorted(np.arange(lines + 1) * runs.line_length)
    if HAS_NUMBA:
        bounds = _smooth_by_lines(pieces, offsets, half_widths)
        return merge_touching(runs_from_bounds(bounds, runs.shape_hw, runs.order))
    encoder = RunEncoder((lines, runs.line_length), order="C", axis="rows")
    for band in _smooth_by_bands(pieces, offsets, half_widths):
        encoder.add(band)
    smooth = encoder.runs()
    return Runs(smooth.starts, smooth.lengths, runs.shape_hw, runs.order)


def disc_half_widths(radius_px: float, lines: int, line_length: int) -> np.ndarray:
    """How far a disc reaches along each line that it spans.

    Args:
        radius_px: Radius in pixels, at least 0.
        lines: Lines of the mask; lines of the disc further away than these are left out.
        line_length: Pixels of a line; a reach beyond it is cut to it.

    Returns:
        int64: for the lines at distance 0, 1, ... of the disc's centre, the furthest pixel within the disc, counted
        from the one beside the centre.
    """
    square = int(radius_px * radius_px)
    reach = min(math.isqrt(square), lines - 1)
    return np.array([min(math.isqrt(square - away * away), line_length) for away in range(reach + 1)], np.int64)


def _smooth_by_lines(pieces: Runs, offsets: np.ndarray, half_widths: np.ndarray) -> np.ndarray:
    """Starts and ends of the smoothed runs, int64 (2n,), gathered line by line; see `_smooth_lines_jit`."""
    bounds = np.empty(pieces.line_length + 1 + SMOOTH_BOUNDS, np.int64)
    chunks = []
    line = 0
    while line < len(offsets) - 1:
        line, used = _smooth_lines_jit(
            pieces.starts, pieces.lengths, pieces.line_length, offsets, half_widths, line, bounds
        )
        chunks.append(bounds[:used].copy())
    return np.concatenate(chunks)


@njit
def _add_trapezoid_jit(
    changes: np.ndarray, touched: np.ndarray, start: int, end: int, half_width: int, weight: int
) -> None:
    """Add `weight` for each pixel of a run to all pixels that are at most `half_width` away from it.

    Args:
        changes: int32, second differences; the entry 0 is where the sum may first change.
        touched: uint8, set for each block of 2**SKIP_BITS entries that is written to.
        start: Entry of the run's first pixel.
        end: Entry after its last one.
        half_width: In pixels.
        weight: What each pixel adds.
    """
    for place, sign in (
        (start - half_width, weight),
        (end - half_width, -weight),
        (start + half_width + 1, -weight),
        (end + half_width + 1, weight),
    ):
        changes[place] += sign
        touched[place >> SKIP_BITS] = 1


@njit
def _sum_line_jit(
    changes: np.ndarray, touched: np.ndarray, margin: int, line_start: int, line_length: int, bounds: np.ndarray
) -> int:
    """Sum up a line's changes, write where its sum is positive, and clear the changes.

    Blocks without a change are skipped where the sum is constant. The line's first pixel is in none of them: the line's
    own trapezoid of width 0 begins there.

    Args:
        changes: int32, second differences; the entry `margin` is the line's first pixel.
        touched: uint8, the blocks of `changes` that are not all zero.
        margin: Entries before the line.
        line_start: What the line's first pixel is called.
        line_length: Pixels.
        bounds: int64, receives starts and ends in turn.

    Returns:
        Entries of `bounds` that were written.
    """
    total = slope = 0
    used = 0
    for block in range(touched.size):
        if touched[block] == 0 and slope == 0:
            continue
        first = block << SKIP_BITS
        for place in range(first, min(first + (1 << SKIP_BITS), changes.size)):
            slope += changes[place]
            total += slope
            changes[place] = 0
            # An even number of bounds means that the line is outside of a run here.
            if margin <= place < margin + line_length and (total > 0) == (used % 2 == 0):
                bounds[used] = line_start + place - margin
                used += 1
        touched[block] = 0
    if used % 2:  # the mask holds the line's last pixel
        bounds[used] = line_start + line_length
        used += 1
    return used


@njit
def _smooth_lines_jit(
    starts: np.ndarray,
    lengths: np.ndarray,
    line_length: int,
    offsets: np.ndarray,
    half_widths: np.ndarray,
    line: int,
    bounds: np.ndarray,
) -> tuple[int, int]:
    """Smooth lines until `bounds` may be full.

    A pixel's sum is four for each mask pixel under the disc, less two for each pixel of the image there, and one for
    or against by what the pixel is itself: positive for a majority, and for a tie that is mask, never zero.

    Args:
        starts: int64, ascending.
        lengths: int64; no run passes a line's end.
        line_length: Pixels of a line.
        offsets: int64 (lines + 1,), the first run of each line.
        half_widths: The disc, see `disc_half_widths`.
        line: The line to begin with.
        bounds: int64, longer than a line; receives starts and ends of the smoothed runs.

    Returns:
        The next line, and the entries of `bounds` that were written.
    """
    lines, reach, margin = offsets.size - 1, half_widths.size - 1, half_widths[0]
    changes = np.zeros(line_length + 2 * margin + 2, np.int32)
    touched = np.zeros((changes.size >> SKIP_BITS) + 1, np.uint8)
    used = 0
    while line < lines and used + line_length + 1 <= bounds.size:
        top, bottom = max(0, line - reach), min(lines, line + reach + 1)
        if offsets[top] < offsets[bottom]:
            base = line * line_length
            for other in range(top, bottom):
                half_width = half_widths[abs(other - line)]
                _add_trapezoid_jit(changes, touched, margin, margin + line_length, half_width, -2)
                shift = margin - other * line_length
                for run in range(offsets[other], offsets[other + 1]):
                    start = starts[run] + shift
                    _add_trapezoid_jit(changes, touched, start, start + lengths[run], half_width, 4)
            _add_trapezoid_jit(changes, touched, margin, margin + line_length, 0, -1)
            for run in range(offsets[line], offsets[line + 1]):
                start = starts[run] + margin - base
                _add_trapezoid_jit(changes, touched, start, start + lengths[run], 0, 2)
            used += _sum_line_jit(changes, touched, margin, base, line_length, bounds[used:])
        line += 1
    return line, used


def _smooth_by_bands(pieces: Runs, offsets: np.ndarray, half_widths: np.ndarray) -> Iterator[np.ndarray]:
    """The same without numba: bands (lines, line length) of the smoothed mask, bool; see `_smooth_lines_jit`."""
    lines, margin = len(offsets) - 1, int(half_widths[0])
    breadth = pieces.line_length + 2 * margin + 2
    step = max(1, SMOOTH_BAND_BYTES // (8 * breadth))
    for top in range(0, lines, step):
        bottom = min(lines, top + step)
        changes = np.zeros((bottom - top, breadth), np.int64)
        for away in range(-len(half_widths) + 1, len(half_widths)):
            first, last = max(0, top + away), min(lines, bottom + away)
            if first < last:
                _add_lines_numpy(changes, pieces, (first, last, top + away), offsets, (int(half_widths[abs(away)]), 2))
        _add_lines_numpy(changes, pieces, (top, bottom, top), offsets, (0, 1))
        sums = changes.cumsum(axis=1).cumsum(axis=1)
        yield sums[:, margin : margin + pieces.line_length] > 0


def _add_lines_numpy(
    changes: np.ndarray, pieces: Runs, span: tuple[int, int, int], offsets: np.ndarray, disc: tuple[int, int]
) -> None:
    """Add what lines of the mask give to a band, each to the one row of it that lies at a fixed distance.

    Args:
        changes: int64 (rows, line length + 2 margins + 2), second differences.
        pieces: The mask, runs cut at the ends of lines.
        span: First line, the one after the last, and the line that adds to the band's first row.
        offsets: int64 (lines + 1,), the first run of each line.
        disc: How far the disc reaches at that distance, and what a pixel of the image takes away; one of the mask adds
            twice as much.
    """
    (first, last, base), (half_width, weight) = span, disc
    margin = (changes.shape[1] - pieces.line_length - 2) // 2
    near = slice(offsets[first], offsets[last])
    rows, positions = np.divmod(pieces.starts[near], pieces.line_length)
    whole = np.arange(first, last)
    rows = np.concatenate([whole, rows]) - base
    starts = np.concatenate([np.zeros_like(whole), positions]) + margin
    ends = starts + np.concatenate([np.full_like(whole, pieces.line_length), pieces.lengths[near]])
    weights = np.repeat([-weight, 2 * weight], [whole.size, positions.size])
    for places, sign in (
        (starts - half_width, 1),
        (ends - half_width, -1),
        (starts + half_width + 1, -1),
        (ends + half_width + 1, 1),
    ):
        np.add.at(changes, (rows, places), sign * weights)
