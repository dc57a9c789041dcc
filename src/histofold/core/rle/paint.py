"""From runs to masks, written once and in the order in which the mask lies in memory; and runs cut at lines.

Compiled where numba is installed, under the rules of `changes`; else by plain numpy, the same results more slowly.
"""

from __future__ import annotations

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit

PAINT_BLOCK = 512  # columns that are copied, or left untouched, together


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


@njit
def list_toggles_jit(
    starts: np.ndarray, lengths: np.ndarray, height: int, cursors: np.ndarray, columns: np.ndarray
) -> None:
    """Where columns switch between background and mask, sorted by row; each column begins as background.

    Args:
        starts: Column-major starts, int64.
        lengths: Lengths, int64.
        height: Length of a column.
        cursors: int64 (height,): of each row the number of toggles so far, or the place of its next one.
        columns: int32: receives the toggled columns, row by row; if empty, they are only counted.
    """
    column, base, fill = 0, 0, columns.size > 0
    for run in range(starts.size):
        start = starts[np.uint64(run)]
        end = start + lengths[np.uint64(run)]
        while start - base >= height:  # columns are few; a division for each run is not
            column += 1
            base += height
        row = start - base
        while True:
            place = cursors[np.uint64(row)]
            if fill:
                columns[np.uint64(place)] = column
            cursors[np.uint64(row)] = place + 1
            if end - base > height:  # the run goes on at the top of the next column
                column += 1
                base += height
                row = 0
            elif row < end - base < height:
                row = end - base
            else:
                break


@njit
def paint_rows_jit(
    offsets: np.ndarray, columns: np.ndarray, current: np.ndarray, active: np.ndarray, flat: np.ndarray
) -> None:
    """Write a mask row by row: toggle columns of the current row, then copy it; blank blocks are never touched.

    Args:
        offsets: int64 (H + 1,): the toggles of row r are columns[offsets[r] : offsets[r + 1]].
        columns: int32, toggled columns.
        current: uint8 (W,), zeros.
        active: int64, zeros: mask pixels of the current row in each block of PAINT_BLOCK columns.
        flat: uint8 (H * W,), zeros; the mask.
    """
    width = current.size
    for row in range(offsets.size - 1):
        for toggle in range(offsets[np.uint64(row)], offsets[np.uint64(row + 1)]):
            column = np.uint64(columns[np.uint64(toggle)])
            value = np.uint8(current[column] ^ np.uint8(1))
            current[column] = value
            active[column // np.uint64(PAINT_BLOCK)] += 2 * np.int64(value) - 1
        for block in range(active.size):
            if active[np.uint64(block)] != 0:
                left = block * PAINT_BLOCK
                for x in range(left, min(left + PAINT_BLOCK, width)):
                    flat[np.uint64(row * width + x)] = current[np.uint64(x)]


@njit
def paint_line_jit(starts: np.ndarray, lengths: np.ndarray, flat: np.ndarray) -> None:
    """Set the runs of a mask that lies in memory as the runs are numbered; flat is uint8."""
    for run in range(starts.size):
        start = starts[np.uint64(run)]
        for at in range(start, start + lengths[np.uint64(run)]):
            flat[np.uint64(at)] = 1


def paint_rows_numpy(starts: np.ndarray, lengths: np.ndarray, height: int, mask_HW: np.ndarray) -> None:
    """Write column-major runs, none of which passes a column's end, into a mask of zeros, uint8."""
    column, row = np.divmod(starts, height)
    mask_HW[row, column] = 1
    row += lengths
    inside = row < height
    mask_HW[row[inside], column[inside]] ^= 1
    np.bitwise_xor.accumulate(mask_HW, axis=0, out=mask_HW)


def paint_line_numpy(starts: np.ndarray, lengths: np.ndarray, pixels: int) -> np.ndarray:
    """A flat mask, bool, of runs that are numbered as the mask lies in memory."""
    gaps = np.zeros(2 * starts.size + 1, np.int64)
    gaps[1::2] = lengths
    gaps[0:-1:2] = starts
    gaps[2:-1:2] -= starts[:-1] + lengths[:-1]
    gaps[-1] = pixels - gaps.sum()
    return np.repeat(np.arange(gaps.size) % 2 == 1, gaps)


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
