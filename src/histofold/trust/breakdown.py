"""Scores of the parts of a run's slides: by organ, source, patient, size of the image and share of the mask."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from histofold.trust.intervals import grouped_interval, score_bounds

SIZE_EDGES_PX = (512, 1024, 2048, 4096, 16384)
"""Longer sides of images at which a bin begins."""
SHARE_EDGES = (0.01, 0.05, 0.2, 0.5)
"""Shares of the true mask at which a bin begins; slides without any are a bin of their own."""
PART_COLUMNS = ("part", "images", "groups", "mean", "low", "high", "median", "min", "max")


def size_bin(shape_hw: tuple[int, int]) -> str:
    """The bin of an image's longer side, in words that sort from small to large with those of `size_bins`."""
    return size_bins()[int(np.searchsorted(SIZE_EDGES_PX, max(shape_hw), side="right"))]


def size_bins() -> list[str]:
    """The bins of longer sides, from small to large."""
    between = [f"{low} to {high - 1} px" for low, high in itertools.pairwise(SIZE_EDGES_PX)]
    return [f"below {SIZE_EDGES_PX[0]} px", *between, f"{SIZE_EDGES_PX[-1]} px and more"]


def share_bin(share: float) -> str:
    """The bin of a share of true pixels, 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: a share of pixels lies within 0 to 1")
    return share_bins()[0 if share == 0 else 1 + int(np.searchsorted(SHARE_EDGES, share, side="right"))]


def share_bins() -> list[str]:
    """The bins of shares of true pixels, from none to most."""
    edges = [f"{edge:.0%}" for edge in SHARE_EDGES]
    between = [f"{low} to below {high}" for low, high in itertools.pairwise(edges)]
    return ["no mask", f"below {edges[0]}", *between, f"{edges[-1]} and more"]


def part_table(
    scores: Sequence[float], groups: Sequence[str], parts: Sequence[str], order: Sequence[str] = ()
) -> pd.DataFrame:
    """The scores of each part: their number, mean with its 95% interval by groups, and spread.

    Args:
        scores: Score of each image; those without one, NaN, are left out.
        groups: Group of each image.
        parts: Part of each image.
        order: Parts in the order wanted; without it they are sorted by name.

    Returns:
        `PART_COLUMNS`, a row for each part that has an image; low and high are NaN where there is one group.
    """
    table = pd.DataFrame({"part": parts, "group": groups, "score": scores}).dropna(subset="score")
    rows = []
    for part in order or sorted(set(table["part"])):
        own = table[table["part"] == part]
        if len(own):
            values = own["score"].to_numpy(float)
            low, high = score_bounds(grouped_interval(values, own["group"].tolist())) or (np.nan, np.nan)
            spread = (np.median(values), values.min(), values.max())
            rows.append((part, len(own), own["group"].nunique(), values.mean(), low, high, *spread))
    return pd.DataFrame(rows, columns=list(PART_COLUMNS))
