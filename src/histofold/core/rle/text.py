"""Run-length texts: 1-based `start length` pairs separated by blanks.

Written and read by compiled code where numba is installed, else by plain numpy; what either does not read goes to a
careful parser, which says what is wrong.
"""

from __future__ import annotations

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit

QUOTED_CHARACTERS = 40  # a token at fault may be megabytes long
MAX_FAST_DIGITS = 18  # numbers that cannot overflow int64; longer ones go to the careful parser


def bounds_to_text(bounds: np.ndarray) -> str:
    """Runs as text.

    Args:
        bounds: int64 (2n,): 0-based start, end, start, end...; sorted.
    """
    if bounds.size == 0:
        return ""
    if not HAS_NUMBA:
        return write_pairs_numpy(bounds)
    longest = int((bounds[1::2] - bounds[::2]).max())
    buffer = np.empty(bounds.size // 2 * (len(str(bounds[-1])) + len(str(longest)) + 2), np.uint8)
    return str(buffer[: write_pairs_jit(bounds, buffer)].data, "ascii")


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


def write_pairs_numpy(bounds: np.ndarray) -> str:
    """Runs, given as start, end, start, end..., as 1-based `start length` pairs."""
    pairs = bounds.copy()
    pairs[1::2] -= pairs[::2]
    pairs[::2] += 1
    return " ".join(map(str, pairs.tolist()))


def text_to_runs(text: str, shape_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Starts (0-based) and lengths of a text, both int64.

    Args:
        text: `start length` pairs, 1-based, separated by any blanks.
        shape_hw: Height and width of the mask.

    Raises:
        ValueError: If a pair is malformed, unsorted, overlapping or outside the mask; the message names it.
    """
    pixels = shape_hw[0] * shape_hw[1]
    if text.isascii():
        data = np.frombuffer(text.encode("ascii"), np.uint8)
        if HAS_NUMBA:
            starts, lengths = np.empty((2, data.size // 4 + 1), np.int64)
            pairs = parse_pairs_jit(data, pixels, starts, lengths)
            if pairs >= 0:
                return starts[:pairs].copy(), lengths[:pairs].copy()
        else:
            runs = parse_pairs_numpy(data, pixels)
            if runs is not None:
                return runs
    return parse_pairs_carefully(text, shape_hw)


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


def parse_pairs_carefully(text: str, shape_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The same in plain Python: the one place that says what is wrong with a text."""
    tokens = text.split()
    pixels = shape_hw[0] * shape_hw[1]
    starts, lengths, free = [], [], 0
    for index in range(0, len(tokens), 2):
        pair = tokens[index : index + 2]
        fault = ""
        if len(pair) == 1:
            fault = "a start without a length: the count of numbers is odd"
        elif not all(token.isascii() and token.isdigit() for token in pair):
            fault = "not two whole numbers: write plain digits, no sign, point or exponent"
        else:
            start, length = (plain_integer(token, pixels) for token in pair)
            if start < 1:
                fault = "start below 1: positions are 1-based"
            elif length < 1:
                fault = "length below 1: leave empty runs out"
            elif start - 1 + length > pixels:
                fault = f"ends beyond the last of {shape_hw[0]} x {shape_hw[1]} = {pixels} pixels (H x W)"
            elif start - 1 < free:
                fault = (
                    f"starts before position {free + 1}, where the pair before it ends: runs must be sorted and apart"
                )
            else:
                free = start - 1 + length
                starts.append(start - 1)
                lengths.append(length)
        if fault:
            raise ValueError(f'rle pair {index // 2 + 1} of {(len(tokens) + 1) // 2} ("{quote_pair(pair)}"): {fault}')
    return np.array(starts, np.int64), np.array(lengths, np.int64)


def plain_integer(digits: str, pixels: int) -> int:
    """A number of any length; one beyond the last pixel is clipped, since int() refuses thousands of digits."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= len(str(pixels)) else pixels + 1


def quote_pair(tokens: list[str]) -> str:
    """The tokens as they stand in the text, long ones shortened."""
    return " ".join(t if len(t) <= QUOTED_CHARACTERS else f"{t[:QUOTED_CHARACTERS]}..." for t in tokens)
