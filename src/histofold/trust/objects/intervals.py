"""What chance could make of an average precision, and of the gain of one setting over another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from histofold.core.metrics.ranked import PooledHits
from histofold.trust.intervals import grouped_interval


def ap_interval(pool: PooledHits, groups: Sequence[str]) -> tuple[float, float]:
    """95% interval of a pooled average precision; see `jackknife_interval`.

    Args:
        pool: Of the images.
        groups: Group of each image, in the order of the pool.
    """
    return jackknife_interval(pool.ap, groups)


def gain_interval(first: PooledHits, second: PooledHits, groups: Sequence[str]) -> tuple[float, float]:
    """95% interval of how much better the second average precision of the same images is."""
    return jackknife_interval(lambda weights_N: second.ap(weights_N) - first.ap(weights_N), groups)


def jackknife_interval(statistic: Callable[[np.ndarray], float], groups: Sequence[str]) -> tuple[float, float]:
    """95% interval of a figure that is no mean over images, from what it is without each group in turn.

    A group's influence, as the figure without it shows it (Tukey's pseudo-values; Efron and Tibshirani 1993, chapter
    11), stands for the scores of its images in `grouped_interval`, which knows how few groups there are. Of a mean this
    gives what `grouped_interval` gives.

    Args:
        statistic: The figure of images that are taken so many times each, by weights_N.
        groups: Group of each image.

    Returns:
        (low, high); infinite where there is one group, or where the figure needs a single group to be one.
    """
    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    counts_G, whole = np.bincount(codes), statistic(np.ones(len(codes), np.int64))
    if len(counts_G) < 2:
        return -math.inf, math.inf
    without_G = np.array([statistic((codes != group).astype(np.int64)) for group in range(len(counts_G))])
    influences = ((whole - without_G) * (len(codes) - counts_G) / counts_G)[codes]
    if not np.isfinite(influences).all():
        return -math.inf, math.inf
    low, high = grouped_interval(influences, groups)
    middle = (low + high) / 2
    return whole + low - middle, whole + high - middle
