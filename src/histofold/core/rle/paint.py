"""From runs to masks, written once and in the order in which the mask lies in memory."""

from __future__ import annotations

import numpy as np

from histofold.core.jit import HAS_NUMBA
from histofold.core.rle.compiled import PAINT_BLOCK, list_toggles_jit, paint_line_jit, paint_rows_jit
from histofold.core.rle.uncompiled import paint_line_numpy, paint_rows_numpy


def paint_runs(starts: np.ndarray, lengths: np.ndarray, shape_hw: tuple[int, int], order: str) -> np.ndarray:
    """The mask of runs.

    Args:
        starts: 0-based in `order`, int64, ascending.
        lengths: int64.
        shape_hw: Height and width of the mask.
        order: "F" or "C".

    Returns:
        bool (H, W), C-contiguous; blank parts of a large mask take no memory until they are touched.
    """
    height, width = shape_hw
    if order == "C" and not HAS_NUMBA:
        return paint_line_numpy(starts, lengths, height * width).reshape(shape_hw)
    mask_HW = np.zeros(shape_hw, np.uint8)
    if order == "C":
        paint_line_jit(starts, lengths, mask_HW.reshape(-1))
    elif HAS_NUMBA:
        _paint_across(starts, lengths, mask_HW)
    else:
        paint_rows_numpy(*split_lines(starts, lengths, height), height, mask_HW)
    return mask_HW.view(bool)


def _paint_across(starts: np.ndarray, lengths: np.ndarray, mask_HW: np.ndarray) -> None:
    """Write column-major runs row by row: what switches in a row is sorted out first, then each row is written once."""
    height, width = mask_HW.shape
    offsets = np.zeros(height + 1, np.int64)
    list_toggles_jit(starts, lengths, height, offsets[1:], np.zeros(0, np.int32))
    np.cumsum(offsets, out=offsets)
    columns = np.empty(max(1, int(offsets[-1])), np.int32)
    list_toggles_jit(starts, lengths, height, offsets[:-1].copy(), columns)
    active = np.zeros(-(-width // PAINT_BLOCK), np.int64)
    paint_rows_jit(offsets, columns, np.zeros(width, np.uint8), active, mask_HW.reshape(-1))


def split_lines(starts: np.ndarray, lengths: np.ndarray, line_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Split runs at the ends of lines, so that none passes from one line into the next."""
    first_line = starts // line_length
    pieces = (starts + lengths - 1) // line_length - first_line + 1
    if (pieces == 1).all():
        return starts, lengths
    run = np.repeat(np.arange(starts.size), pieces)
    line = first_line[run] + np.arange(run.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    split_starts = np.maximum(starts[run], line * line_length)
    ends = np.minimum(starts[run] + lengths[run], (line + 1) * line_length)
    return split_starts, ends - split_starts


def clip_lines(
    starts: np.ndarray, lengths: np.ndarray, line_length: int, lines: tuple[int, int], span: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The runs inside a window, numbered within it.

    Args:
        starts: 0-based, int64, ascending.
        lengths: int64.
        line_length: Pixels of a line of the whole mask.
        lines: First line of the window, and the one after its last.
        span: First position in a line, and the one after the last.
    """
    left, right = lines[0] * line_length, lines[1] * line_length
    # Runs are apart and sorted, so only the one that starts last before the window can reach into it.
    inside = slice(max(0, int(starts.searchsorted(left, "right")) - 1), int(starts.searchsorted(right, "left")))
    begins = np.maximum(starts[inside], left)
    sizes = np.minimum(starts[inside] + lengths[inside], right) - begins
    begins, sizes = split_lines(begins[sizes > 0], sizes[sizes > 0], line_length)
    line, position = np.divmod(begins, line_length)
    tops, bottoms = np.maximum(position, span[0]), np.minimum(position + sizes, span[1])
    seen = bottoms > tops
    depth = span[1] - span[0]
    window_starts = (line[seen] - lines[0]) * depth + tops[seen] - span[0]
    return window_starts, bottoms[seen] - tops[seen]
