"""Masks of up to seven classes as one byte a pixel: bit k is class k, so that classes may overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.core.rle.sets import union_runs
from histofold.imaging.resample import resample_mask_region

MAX_CLASSES = 7
IGNORED_BIT = 128
"""The last bit of a training mask: the loss passes over the pixel."""
SOFT_LEVELS = 15
"""Nested masks that stand for the probabilities of a soft label; they divide 255, and no multiple of 17 is 128."""


def check_class_count(classes: Sequence[str], place: str) -> None:
    """Refuse more classes than a tile's mask has bits.

    Args:
        classes: Names of the mask classes.
        place: Where they come from, for the message.

    Raises:
        InputError: If there are more than `MAX_CLASSES`.
    """
    if len(classes) > MAX_CLASSES:
        rule = f"{len(classes)} mask classes, and a tile's mask holds at most {MAX_CLASSES} (one bit each)"
        raise InputError([Fault("classes", place, rule, "join classes, or make one dataset of each half")])


def any_class(target: Masks) -> Runs:
    """The pixels of a target that belong to any class, found among the runs.

    Raises:
        ValueError: If the classes differ in size or in the order of their runs.
    """
    parts = class_runs(target)
    return parts[0] if len(parts) == 1 else union_runs(parts)


def masked_fraction(target: Masks) -> float:
    """Share of a slide's pixels that belong to any class; raises as `any_class`."""
    runs = any_class(target)
    return runs.area / (runs.shape_hw[0] * runs.shape_hw[1])


def target_bits(target: Masks, scaled_hw: tuple[int, int], y: slice, x: slice) -> np.ndarray:
    """A region of a target at another size, decoded for that region alone.

    Args:
        target: The truth, at the slide's own size.
        scaled_hw: Height and width of the slide as the tiles see it.
        y: Rows of the scaled slide.
        x: Its columns.

    Returns:
        uint8 (h, w), bit k set where the pixel belongs to class k.
    """
    bits_HW = np.zeros((y.stop - y.start, x.stop - x.start), np.uint8)
    for number, runs in enumerate(class_runs(target)):
        mask_HW = resample_mask_region(runs, scaled_hw, y, x)
        bits_HW |= mask_HW.view(np.uint8) << np.uint8(number)
    return bits_HW


def soft_values(levels: Sequence[Runs], scaled_hw: tuple[int, int], y: slice, x: slice) -> np.ndarray:
    """A region of the probabilities of one class, as nested masks hold them, in the manner of `target_bits`.

    Args:
        levels: A pixel's probability is the part of these masks that hold it; `SOFT_LEVELS` of them.
        scaled_hw: Height and width of the slide as the tiles see it.
        y: Rows of the scaled slide.
        x: Its columns.

    Returns:
        uint8 (h, w), 255 for certain; never `IGNORED_BIT`.
    """
    counts_HW = np.zeros((y.stop - y.start, x.stop - x.start), np.uint8)
    for runs in levels:
        counts_HW += target_bits(runs, scaled_hw, y, x)
    return counts_HW * np.uint8(255 // SOFT_LEVELS)


def mean_certainty(levels: Sequence[Runs], scaled_hw: tuple[int, int], y: slice, x: slice) -> float:
    """Mean of |2p - 1| over the pixels of a region, p as `soft_values` gives it: 1 where all are certain.

    Args:
        levels: As `soft_values` takes them, and so the others.
        scaled_hw: Height and width of the slide as the tiles see it.
        y: Rows of the scaled slide.
        x: Its columns.
    """
    values_HW = soft_values(levels, scaled_hw, y, x).astype(np.int64)
    return int(np.abs(2 * values_HW - 255).sum()) / (255 * values_HW.size)


def class_fractions(bits_HW: np.ndarray, classes: int) -> list[float]:
    """Share of the pixels of each class; of any class for a single one."""
    if classes == 1:
        return [np.count_nonzero(bits_HW) / bits_HW.size]
    return [np.count_nonzero(bits_HW & np.uint8(1 << number)) / bits_HW.size for number in range(classes)]
