"""From masks to the positions where runs start and end, without ever transposing a mask.

A mask that lies in memory as its runs are numbered is scanned along memory. Any other one is scanned across: each row
is compared with the row above it, and the few changes, found row by row, are sorted by column at the end. What stands
above row 0 of a column is row H - 1 of the column before it; this seam is closed when all rows are there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from histofold.core.jit import HAS_NUMBA
from histofold.core.rle.changes import (
    CHANGE_COLUMN_BITS,
    ChangeGatherer,
    count_columns_jit,
    place_changes_jit,
    sort_changes_numpy,
)

ALONG_SEGMENT = 8192  # bytes scanned along memory between two looks at the room left for changes
BAND_SHARE = 32  # masks that must be converted are converted in bands of this part of theirs
BAND_PX = (1 << 16, 1 << 22)  # but such bands have at least and at most so many pixels


class AlongScan:
    """Scans lines that follow each other both in memory and in the runs' numbering."""

    def __init__(self) -> None:
        self._gatherer = ChangeGatherer(ALONG_SEGMENT)
        self._position = 0
        self._last_set = False

    def add(self, lines: np.ndarray) -> None:
        """Take the next lines, uint8 (n, length), C-contiguous."""
        flat = read_only(lines.reshape(-1))
        if bool(flat[0]) != self._last_set:
            self._gatherer.flush()
            self._gatherer.chunks.append(np.array([self._position], np.int64))
        segments, rest = divmod(flat.size - 1, ALONG_SEGMENT)
        scanned, after = segments * ALONG_SEGMENT, self._position + 1
        self._gatherer.gather(flat, 1, ALONG_SEGMENT, (segments, ALONG_SEGMENT), 1, (after, ALONG_SEGMENT))
        self._gatherer.gather(flat, 1 + scanned, 0, (1, rest), 1, (after + scanned, 0))
        self._position += flat.size
        self._last_set = bool(flat[-1])

    def finish(self) -> np.ndarray:
        """Starts and ends of the runs, int64 (2n,): start, end, start, end..."""
        self._gatherer.flush()
        closing = np.array([self._position] if self._last_set else [], np.int64)
        return np.concatenate([*self._gatherer.chunks, closing])


class AcrossScan:
    """Scans rows that lie across the runs' lines: rows of a mask whose runs go down its columns."""

    def __init__(self, width: int) -> None:
        self._gatherer = ChangeGatherer(width)
        self._width = width
        self._rows = 0
        self._first_W = self._last_W = np.zeros(0, np.uint8)

    def add(self, rows: np.ndarray) -> None:
        """Take the next rows, uint8 (n, W), each contiguous, the distance of rows positive."""
        flat, stride = flat_rows(rows)
        row_tag = 1 << CHANGE_COLUMN_BITS
        if self._rows:
            pair = read_only(np.concatenate([self._last_W, rows[0]]))
            self._gatherer.gather(pair, self._width, 0, (1, self._width), self._width, (self._rows * row_tag, 0))
        else:
            self._first_W = rows[0].copy()
        below = (len(rows) - 1, self._width)
        self._gatherer.gather(flat, stride, stride, below, stride, ((self._rows + 1) * row_tag, row_tag))
        self._rows += len(rows)
        self._last_W = rows[-1].copy()

    def finish(self) -> np.ndarray:
        """Starts and ends of the runs, int64 (2n,): start, end, start, end..."""
        self._gatherer.flush()
        seam = seam_columns(self._first_W, self._last_W)
        if not HAS_NUMBA:
            chunks = [seam, *self._gatherer.chunks]
            bounds = np.append(sort_changes_numpy(chunks, self._rows), 0)
            return close_bounds(bounds, self._rows, self._last_W)
        counts = np.zeros(self._width, np.int64)
        for chunk in self._gatherer.chunks:
            count_columns_jit(chunk, counts)
        bounds, cursors = lay_out_columns(counts, seam, self._rows)
        for chunk in self._gatherer.chunks:
            place_changes_jit(chunk, cursors, self._rows, bounds)
        return close_bounds(bounds, self._rows, self._last_W)


def scan_lines(lines: np.ndarray, along: bool) -> np.ndarray:
    """Starts and ends of the runs of a whole mask, int64 (2n,).

    Args:
        lines: Mask of any dtype and strides, turned so that axis 0 has the larger stride.
        along: Whether its lines are the runs' lines, or lie across them.
    """
    scan = AlongScan() if along else AcrossScan(lines.shape[1])
    for band in byte_bands(lines, contiguous=along):
        scan.add(band)
    return scan.finish()


def seam_columns(first_W: np.ndarray, last_W: np.ndarray) -> np.ndarray:
    """Columns whose top pixel differs from the bottom pixel of the column before, as packed changes of row 0."""
    above_W = np.concatenate([[False], last_W[:-1] != 0])
    return np.flatnonzero((first_W != 0) != above_W).astype(np.int64)


def lay_out_columns(counts: np.ndarray, seam: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for all changes, those of the seam in place, and the cursors of the columns' next ones.

    The room has one entry more than there are changes: the place for the closing bound.
    """
    counts[seam] += 1
    cursors = np.cumsum(counts) - counts
    bounds = np.empty(int(counts.sum()) + 1, np.int64)
    bounds[cursors[seam]] = seam * height
    cursors[seam] += 1
    return bounds, cursors


def close_bounds(bounds: np.ndarray, height: int, last_W: np.ndarray) -> np.ndarray:
    """End the run that holds the last pixel, if there is one, in the entry that `bounds` has for it at its end."""
    if not last_W[-1]:
        return bounds[:-1]
    bounds[-1] = height * last_W.size
    return bounds


def flat_rows(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """The bytes from the first to the last of contiguous rows as one read-only array, and the distance of rows."""
    stride = rows.strides[0] if len(rows) > 1 else rows.shape[1]
    return np.lib.stride_tricks.as_strided(
        rows, ((len(rows) - 1) * stride + rows.shape[1],), (1,), writeable=False
    ), stride


def read_only(flat: np.ndarray) -> np.ndarray:
    """A read-only view, so that the kernels are compiled for one kind of array whatever the caller has."""
    view = flat.view()
    view.flags.writeable = False
    return view


def byte_bands(rows: np.ndarray, contiguous: bool) -> Iterator[np.ndarray]:
    """The mask as bytes that are zero or not: itself where it is made of bytes, else converted band by band.

    Args:
        rows: Mask of any dtype and strides.
        contiguous: Rows must follow each other without a gap.

    Raises:
        ValueError: If the mask holds NaN.
    """
    height, width = rows.shape
    row_stride, pixel_stride = rows.strides
    fits = row_stride == width if contiguous else row_stride >= width
    if rows.dtype.itemsize == 1 and (pixel_stride == 1 or width == 1) and (fits or height == 1):
        yield rows.view(np.uint8)
        return
    band_px = min(max(rows.size // BAND_SHARE, BAND_PX[0]), BAND_PX[1])
    step = min(height, max(1, band_px // width))
    buffer = np.empty((step, width), bool)
    for top in range(0, height, step):
        band = rows[top : top + step]
        set_HW = buffer[: len(band)]
        if rows.dtype.kind in "fc" and np.isnan(band, out=set_HW).any():
            raise ValueError(
                "mask holds NaN, which is neither mask nor background: find out where it comes from, or replace it "
                "with np.nan_to_num"
            )
        np.not_equal(band, 0, out=set_HW)
        yield set_HW.view(np.uint8)
