"""Compiled kernels between masks, runs and text; their plain-numpy twins stand in `uncompiled`.

All indices are unsigned: numba guards a signed index against being negative, which keeps LLVM from using vectors (35
times slower here). For the same reason every small sum is cast back to uint8. Arrays are uint8 or int64 and contiguous,
so that each kernel compiles once.
"""

from __future__ import annotations

import numpy as np

from histofold.core.jit import njit

CHANGE_COLUMN_BITS = 32  # a change is packed as row << 32 | column
SCAN_BLOCK = 128  # bytes compared at once: more would cost time where there are changes, less where there are none
PAINT_BLOCK = 512  # columns that are copied, or left untouched, together


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


@njit
def count_dense_jit(flat: np.ndarray, stride: int, rows: int, width: int, counts: np.ndarray) -> None:
    """Count every column's changes over all rows but the first, for masks where changes are everywhere."""
    lag = np.uint64(stride)
    for row in range(1, rows):
        start = np.uint64(row * stride)
        for column in range(width):
            here = start + np.uint64(column)
            counts[np.uint64(column)] += np.int64((flat[here] != 0) != (flat[here - lag] != 0))


@njit
def place_dense_jit(
    flat: np.ndarray, stride: int, rows: int, left: int, right: int, cursors: np.ndarray, bounds: np.ndarray
) -> None:
    """Write the changes of columns [left, right) at their cursors; few columns at once keep the targets in the cache.

    Unchanged pixels are written too, into the last entry of `bounds`, which is not part of the result: a select is
    cheaper than a branch that cannot be predicted.
    """
    lag, waste = np.uint64(stride), np.uint64(bounds.size - 1)
    for row in range(1, rows):
        start = np.uint64(row * stride)
        for column in range(left, right):
            here = start + np.uint64(column)
            place = np.uint64(cursors[np.uint64(column)])
            changed = (flat[here] != 0) != (flat[here - lag] != 0)
            bounds[place if changed else waste] = column * rows + row
            cursors[np.uint64(column)] = np.int64(place) + np.int64(changed)


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


MAX_FAST_DIGITS = 18  # numbers that cannot overflow int64; longer ones go to the careful parser


@njit
def write_pairs_jit(bounds: np.ndarray, buffer: np.ndarray) -> np.int64:
    """Write runs as 1-based `start length` pairs; gives the number of bytes, the last separator not counted.

    Args:
        bounds: int64 (2n,): start, end, start, end...
        buffer: uint8, long enough.
    """
    at, one, ten, hundred = np.uint64(0), np.uint64(1), np.uint64(10), np.uint64(100)
    start, start_digits, start_bound = np.uint64(0), one, ten
    for index in range(bounds.size):
        bound = np.uint64(bounds[np.uint64(index)])
        if index % 2 == 0:
            start, value = bound, bound + one
            while value >= start_bound:  # starts ascend, so their number of digits is not counted anew
                start_digits += one
                start_bound *= ten
            digits = start_digits
        else:
            value, digits, limit = bound - start, one, ten
            while value >= limit:
                digits += one
                limit *= ten
        last = at + digits - one
        while value >= hundred:  # two digits at a time, from the right
            rest = value // hundred
            pair = value - rest * hundred
            tens = pair // ten
            buffer[last] = np.uint8(pair - tens * ten + np.uint64(48))
            buffer[last - one] = np.uint8(tens + np.uint64(48))
            last -= np.uint64(2)
            value = rest
        tens = value // ten
        buffer[last] = np.uint8(value - tens * ten + np.uint64(48))
        if tens != 0:
            buffer[last - one] = np.uint8(tens + np.uint64(48))
        at += digits
        buffer[at] = 32
        at += one
    return np.int64(at) - 1


@njit
def is_space_jit(byte: int) -> bool:
    """What str.split() takes for a separator, within ASCII."""
    return byte == 32 or (9 <= byte <= 13) or (28 <= byte <= 31)


@njit
def parse_pairs_jit(text: np.ndarray, pixels: int, starts: np.ndarray, lengths: np.ndarray) -> np.int64:
    """Read `start length` pairs; gives their number, or -1 for a text that needs the careful parser's words.

    Args:
        text: ASCII, uint8.
        pixels: No run may pass this position.
        starts: int64, receives 0-based starts; a quarter of the text's length, rounded up, is enough.
        lengths: int64, the same.
    """
    size, at, one = np.uint64(text.size), np.uint64(0), np.uint64(1)
    pairs, free, start = np.uint64(0), np.int64(0), np.int64(-1)
    while True:
        while at < size and is_space_jit(text[at]):
            at += one
        if at == size:
            return np.int64(pairs) if start < 0 else np.int64(-1)
        begin, value = at, np.int64(0)
        while at < size:
            digit = np.uint8(text[at] - 48)
            if digit > 9:
                break
            value = 10 * value + np.int64(digit)
            at += one
        digits = np.int64(at - begin)
        if digits == 0 or digits > MAX_FAST_DIGITS or (at < size and not is_space_jit(text[at])):
            return np.int64(-1)
        if start < 0:
            start = value - 1
            if start < free:
                return np.int64(-1)
        else:
            free = start + value
            if value < 1 or free > pixels:
                return np.int64(-1)
            starts[pairs], lengths[pairs] = start, value
            pairs += one
            start = np.int64(-1)
