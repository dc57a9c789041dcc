"""Run-length texts: 1-based `start length` pairs separated by blanks."""

from __future__ import annotations

import numpy as np

from histofold.core.jit import HAS_NUMBA
from histofold.core.rle.compiled import parse_pairs_jit, write_pairs_jit
from histofold.core.rle.uncompiled import parse_pairs_numpy, write_pairs_numpy

QUOTED_CHARACTERS = 40  # a token at fault may be megabytes long


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
