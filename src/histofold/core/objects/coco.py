"""COCO's compressed counts: a mask as one short text, byte for byte as pycocotools writes and reads it.

Column by column the text lists alternating numbers of background and mask pixels, background first. From the fourth on
each stands as its difference from the one two before it; five bits a character, the lowest first, from "0" upwards.
Source: https://github.com/cocodataset/cocoapi, maskApi.c, rleToString and rleFrString.
"""

from __future__ import annotations

import numpy as np

from histofold.core.jit import njit
from histofold.core.regions import merge_touching
from histofold.core.rle.checks import checked_mask_shape
from histofold.core.rle.runs import Runs

MOST_CHARACTERS = 13  # of one number: 64 bits, five a character


def counts_text(runs: Runs) -> str:
    """The counts of a mask, as `pycocotools.mask.encode` writes them.

    Args:
        runs: The mask in order "F".

    Raises:
        ValueError: If the runs are in order "C".

    Example:
        >>> counts_text(Runs(np.array([1, 4]), np.array([2, 2]), (3, 2)))
        '1212'
    """
    if runs.order != "F":
        raise ValueError('runs in order "C": COCO counts down the columns, encode the mask in order "F"')
    runs, pixels = merge_touching(runs), runs.shape_hw[0] * runs.shape_hw[1]
    bounds = np.zeros(2 * len(runs) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = runs.starts, runs.starts + runs.lengths, pixels
    counts = np.diff(bounds)
    if len(runs) and counts[-1] == 0:  # mask to the last pixel
        counts = counts[:-1]
    deltas = counts.copy()
    deltas[3:] -= counts[1:-2]
    codes = np.empty(MOST_CHARACTERS * len(deltas), np.uint8)
    return codes[: write_deltas_jit(deltas, codes)].tobytes().decode("ascii")


def runs_from_counts(text: str | bytes, shape_hw: tuple[int, int]) -> Runs:
    """The mask of counts, as `pycocotools.mask.decode` reads them.

    Args:
        text: Compressed counts, as text or as the bytes that pycocotools gives.
        shape_hw: Height and width of the mask in pixels.

    Returns:
        Runs of order "F", no two of which touch.

    Raises:
        ValueError: If the text is cut, holds a character that counts do not have, or is not of a mask of that size.
    """
    height, width = checked_mask_shape(shape_hw)
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    counts, found = np.zeros(len(data), np.int64), height * width
    read = read_deltas_jit(np.frombuffer(data, np.uint8), found, counts)
    if read < 0:
        raise ValueError(_fault_in_counts(data, -1 - int(read), (height, width)))
    if counts.sum() != found:
        raise ValueError(
            f"counts of {counts.sum()} pixels for a mask of {height} x {width} = {found} (H x W): the text is cut, or "
            "of an image of another size"
        )
    ends = counts[:read].cumsum()
    lengths = counts[1:read:2]
    held = lengths > 0  # zeros in between are legal, though pycocotools writes them at the start alone
    return merge_touching(Runs(ends[1::2][held] - lengths[held], lengths[held], (height, width)))


def _fault_in_counts(data: bytes, at: int, shape_hw: tuple[int, int]) -> str:
    """What is wrong with the character at which reading stopped."""
    if at == len(data):
        return f"counts end within a number after {at} characters: the text is cut, take it whole"
    if not 48 <= data[at] < 112:
        character = data[at : at + 4].decode("utf-8", "replace")[:1]
        return (
            f"character {at} of counts is {character!r}: they have only those from '0' to 'o'; give COCO's compressed "
            "counts, neither base64 nor a list of numbers"
        )
    return (
        f"the number that ends at character {at} of counts is no number of pixels of a mask of {shape_hw} (H, W): the "
        "text is damaged, or of an image of another size"
    )


@njit
def write_deltas_jit(deltas: np.ndarray, codes: np.ndarray) -> int:
    """Write numbers five bits a character; gives the number of characters.

    Args:
        deltas: int64.
        codes: uint8, long enough.
    """
    at = 0
    for index in range(deltas.size):
        rest, more = deltas[index], True
        while more:
            low = rest & 31
            rest >>= 5
            # The fifth bit is the sign: it must be that of all that is left out.
            more = rest != (-1 if low & 16 else 0)
            codes[at] = low + 48 + (32 if more else 0)
            at += 1
    return at


@njit
def read_deltas_jit(codes: np.ndarray, pixels: int, counts: np.ndarray) -> int:
    """Read counts; gives how many, or -1 less the position of the character where it cannot go on.

    Args:
        codes: uint8, the text.
        pixels: No count may pass this number.
        counts: int64 of the text's length, receives the counts.
    """
    read, value, shift = 0, 0, 0
    for at in range(codes.size):
        code = int(codes[at]) - 48
        if code < 0 or code > 63 or shift > 50:
            return -1 - at
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if read > 2:
            value += counts[read - 2]
        if value < 0 or value > pixels:
            return -1 - at
        counts[read] = value
        read, value, shift = read + 1, 0, 0
    return read if shift == 0 else -1 - codes.size
