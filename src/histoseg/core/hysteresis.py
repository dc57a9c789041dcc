"""Hysteresis on two run lists: where a mask is sure decides which parts of a looser mask are kept."""

from __future__ import annotations

import numpy as np

from histoseg.core.components import label_runs, select_runs, split_runs
from histoseg.core.rle import Runs


def keep_seeded(low: Runs, high: Runs, connectivity: int = 8) -> Runs:
    """The components of one mask that hold a pixel of another one.

    With the masks of a low and a high threshold of one image this is hysteresis thresholding (J. Canny, A
    Computational Approach to Edge Detection, IEEE PAMI 8(6), 1986).

    Args:
        low: The mask whose components are kept or dropped.
        high: The seeds; those outside of `low` count for nothing.
        connectivity: 8 or 4, of `low`.

    Returns:
        Runs, touching ones joined.

    Raises:
        ValueError: If the masks differ in shape or order, or for another connectivity.
    """
    if (low.shape_hw, low.order) != (high.shape_hw, high.order):
        raise ValueError(
            f"seeds of {high.shape_hw} pixels in order {high.order} for a mask of {low.shape_hw} in order {low.order}: "
            "take both from one image, in one order"
        )
    pieces = split_runs(low)
    labels = label_runs(pieces, connectivity)
    # Seeds that start before a piece ends, less those that end before it starts: what is left overlaps it.
    started = high.starts.searchsorted(pieces.starts + pieces.lengths)
    ended = (high.starts + high.lengths).searchsorted(pieces.starts, "right")
    seeded = np.zeros(len(pieces), bool)
    seeded[labels[started > ended]] = True
    return select_runs(pieces, seeded[labels])
