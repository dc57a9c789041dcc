"""Plain-numpy twins of the compiled kernels, for machines without numba; the same results, more slowly."""

from __future__ import annotations

import numpy as np

from histofold.core.rle.compiled import CHANGE_COLUMN_BITS, MAX_FAST_DIGITS

ROWS_AT_ONCE_PX = 1 << 18  # pixels compared at once: the temporaries stay in the cache


def gather_changes_numpy(
    flat: np.ndarray, begin: int, stride: int, rows: int, width: int, lag: int, tag: int, step: int
) -> list[np.ndarray]:
    """Names of the bytes that change between zero and non-zero; the arguments are those of `gather_changes_jit`."""
    found = []
    rows_at_once = max(1, ROWS_AT_ONCE_PX // max(1, width))
    for first in range(0, rows, rows_at_once):
        count = min(rows_at_once, rows - first)
        at = begin + first * stride
        here, before = (
            np.lib.stride_tricks.as_strided(flat[origin:], (count, width), (stride, 1)) != 0
            for origin in (at, at - lag)
        )
        row, column = np.nonzero(here != before)
        if row.size:
            found.append(tag + (first + row) * step + column)
    return found


def sort_changes_numpy(chunks: list[np.ndarray], height: int) -> np.ndarray:
    """Packed changes as sorted column-major positions, int64."""
    if not chunks:
        return np.zeros(0, np.int64)
    changes = np.concatenate(chunks)
    positions = (changes & ((1 << CHANGE_COLUMN_BITS) - 1)) * height + (changes >> CHANGE_COLUMN_BITS)
    positions.sort()
    return positions


def write_pairs_numpy(bounds: np.ndarray) -> str:
    """Runs, given as start, end, start, end..., as 1-based `start length` pairs."""
    pairs = bounds.copy()
    pairs[1::2] -= pairs[::2]
    pairs[::2] += 1
    return " ".join(map(str, pairs.tolist()))


def parse_pairs_numpy(text: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Starts (0-based) and lengths of an ASCII text, or None for one that needs the careful parser's words."""
    is_digit = (text >= 48) & (text <= 57)
    is_space = (text == 32) | ((text >= 9) & (text <= 13)) | ((text >= 28) & (text <= 31))
    edges = np.flatnonzero(np.diff(is_digit, prepend=False, append=False))
    digits = edges[1::2] - edges[::2]
    if not (is_digit | is_space).all() or digits.size % 2 or (digits > MAX_FAST_DIGITS).any():
        return None
    if digits.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    numbers = np.array([int(token) for token in text.tobytes().decode("ascii").split()], np.int64)
    starts, lengths = numbers[::2] - 1, numbers[1::2].copy()
    ends = starts + lengths
    in_order = (starts[1:] >= ends[:-1]).all()
    return (starts, lengths) if starts[0] >= 0 and (lengths > 0).all() and in_order and ends[-1] <= pixels else None


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
