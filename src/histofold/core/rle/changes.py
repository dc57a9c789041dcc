"""Where the bytes of a mask change between zero and non-zero, found row by row and put in the order of columns.

All indices of compiled code are unsigned: numba guards a signed index against being negative, which keeps LLVM from
using vectors (35 times slower here). For the same reason every small sum is cast back to uint8. Arrays are uint8 or
int64 and contiguous, so that each function compiles once. Without numba a plain-numpy twin gives the same, more slowly.
"""

from __future__ import annotations

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit

CHANGE_COLUMN_BITS = 32  # a change is packed as row << 32 | column
SCAN_BLOCK = 128  # bytes compared at once: more would cost time where there are changes, less where there are none
MIN_CHANGES = 16384  # entries of the buffer of changes; for wide masks twice the width
ROWS_AT_ONCE_PX = 1 << 18  # pixels that numpy compares at once: the temporaries stay in the cache


@njit
def differs_jit(flat: np.ndarray, at: np.uint64, width: int, lag: np.uint64) -> bool:
    """Whether any of `width` bytes differs from the byte `lag` before it; labels that differ count as well."""
    difference = np.uint8(0)
    for i in range(width):
        here = at + np.uint64(i)
        difference = np.uint8(difference | np.uint8(flat[here] ^ flat[here - lag]))
    return difference != 0


@njit
def gather_changes_jit(
    flat: np.ndarray,
    begin: int,
    stride: int,
    rows: int,
    width: int,
    lag: int,
    tag: int,
    step: int,
    scratch: np.ndarray,
    changes: np.ndarray,
    used: int,
) -> tuple[int, np.int64]:
    """Append where bytes change between zero and non-zero, over rows of bytes; stops before `changes` could overflow.

    Bytes are appended without a branch, which noise would mispredict half of the time: what has not changed is
    overwritten by the next.

    Args:
        flat: The bytes, uint8.
        begin: Position of the first row's first byte.
        stride: Distance of rows.
        rows: Number of rows.
        width: Bytes of a row.
        lag: Each byte is compared with the one `lag` before it.
        tag: What the first row's first byte is called; the byte i of row r is called tag + r * step + i.
        step: See `tag`.
        scratch: uint8, SCAN_BLOCK long.
        changes: int64, receives the names of the changed bytes.
        used: Entries of `changes` in use.

    Returns:
        (rows done, entries in use).
    """
    count, distance = np.uint64(used), np.uint64(lag)
    words, whole = scratch.view(np.uint64), width - width % SCAN_BLOCK
    for row in range(rows):
        if np.int64(count) + width > changes.size:
            return row, np.int64(count)
        start, name = np.uint64(begin + row * stride), tag + row * step
        for offset in range(0, whole, SCAN_BLOCK):
            at = start + np.uint64(offset)
            if differs_jit(flat, at, SCAN_BLOCK, distance):
                for i in range(SCAN_BLOCK):
                    here = at + np.uint64(i)
                    scratch[np.uint64(i)] = np.uint8((flat[here] != 0) != (flat[here - distance] != 0))
                for word in range(SCAN_BLOCK // 8):
                    if words[np.uint64(word)] != 0:
                        for i in range(8 * word, 8 * word + 8):
                            changes[count] = name + offset + i
                            count += np.uint64(scratch[np.uint64(i)])
        at = start + np.uint64(whole)
        if differs_jit(flat, at, width - whole, distance):
            for i in range(width - whole):
                here = at + np.uint64(i)
                changes[count] = name + whole + i
                count += np.uint64((flat[here] != 0) != (flat[here - distance] != 0))
    return rows, np.int64(count)


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


class ChangeGatherer:
    """Collects changes in chunks; memory grows with the changes only."""

    chunks: list[np.ndarray]
    """The changes so far but for those still in the buffer; complete after `flush`."""

    def __init__(self, width: int) -> None:
        self.chunks = []
        self._changes = np.empty(max(2 * width, MIN_CHANGES) if HAS_NUMBA else 0, np.int64)
        self._scratch = np.empty(SCAN_BLOCK, np.uint8)
        self._used = 0

    def gather(
        self, flat: np.ndarray, begin: int, stride: int, shape: tuple[int, int], lag: int, tags: tuple[int, int]
    ) -> None:
        """Collect the changes of a block of `shape` (rows, width); see `gather_changes_jit` for the other arguments."""
        rows, width = shape
        tag, step = tags
        if not self._changes.size:
            self.chunks += gather_changes_numpy(flat, begin, stride, rows, width, lag, tag, step)
            return
        while rows > 0:
            done, self._used = gather_changes_jit(
                flat, begin, stride, rows, width, lag, tag, step, self._scratch, self._changes, self._used
            )
            rows, begin, tag = rows - done, begin + done * stride, tag + done * step
            if rows:
                self.flush()

    def flush(self) -> None:
        """Move what the buffer holds to the chunks."""
        if self._used:
            self.chunks.append(self._changes[: self._used].copy())
        self._used = 0


@njit
def count_columns_jit(changes: np.ndarray, counts: np.ndarray) -> None:
    """Count packed changes by column into counts, int64."""
    for i in range(changes.size):
        counts[np.uint64(changes[np.uint64(i)]) & np.uint64(0xFFFFFFFF)] += 1


@njit
def place_changes_jit(changes: np.ndarray, cursors: np.ndarray, height: int, bounds: np.ndarray) -> None:
    """Write packed changes as column-major positions, each at its column's cursor, which moves on."""
    for i in range(changes.size):
        change = np.uint64(changes[np.uint64(i)])
        column, row = change & np.uint64(0xFFFFFFFF), change >> np.uint64(CHANGE_COLUMN_BITS)
        place = np.uint64(cursors[column])
        bounds[place] = np.int64(column) * height + np.int64(row)
        cursors[column] = np.int64(place) + 1


def sort_changes_numpy(chunks: list[np.ndarray], height: int) -> np.ndarray:
    """Packed changes as sorted column-major positions, int64."""
    if not chunks:
        return np.zeros(0, np.int64)
    changes = np.concatenate(chunks)
    positions = (changes & ((1 << CHANGE_COLUMN_BITS) - 1)) * height + (changes >> CHANGE_COLUMN_BITS)
    positions.sort()
    return positions
