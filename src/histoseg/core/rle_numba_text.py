"""Compiled kernels between runs and text; their plain-numpy twins stand in rle_numpy.

Indices are unsigned for the reason that rle_numba gives.
"""

from __future__ import annotations

import numpy as np

from histoseg.core.jit import njit

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
