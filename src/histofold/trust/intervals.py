"""What chance could make of a mean score, and of the difference of two sets of scores of the same slides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student_t

from histofold.competitions.tables import read_table
from histofold.core.faults import Fault, InputError

COMPARED_COLUMNS = ("id", "dice")
CONFIDENCE = 0.95


def grouped_interval(scores: Sequence[float] | np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
    """95% interval of the mean score over images whose groups are independent, by a cluster-robust t.

    Images of one patient are not independent, and groups are few: the variance is the bias-reduced one of Bell and
    McCaffrey (Survey Methodology 28(2), 2002), and the degrees of freedom are theirs, which few or unequal groups
    lower. With 3 to 30 groups it holds the true mean 91 to 97% of the time, 93 to 97% of scores that are
    not bunched at their upper end, where a percentile bootstrap does 70 to 94% (benchmarks/bench_intervals.py).

    Args:
        scores: Score of each image, float (N,).
        groups: Group of each image.

    Returns:
        (low, high); infinite where there is one group, which says nothing of others.

    Example:
        >>> low, high = grouped_interval([0.8, 0.9, 0.7, 0.8], ["patient 1", "patient 1", "patient 2", "patient 3"])
        >>> f"{low:.2f} to {high:.2f}"
        '0.58 to 1.02'
    """
    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    values, counts_G = np.asarray(scores, float), np.bincount(codes)
    mean, total = float(values.mean()), len(values)
    if len(counts_G) < 2:
        return -math.inf, math.inf
    left_G = 1 - counts_G / total  # what the mean leaves of a group's own deviation
    sums_G = np.bincount(codes, values - mean)
    error = float(np.sqrt((sums_G**2 / left_G).sum())) / total
    # The squared error is a sum of squares of these combinations of independent images, one a group.
    weights_GG = np.diag(1 / np.sqrt(left_G)) - counts_G[:, None] / np.sqrt(left_G)[:, None] / total
    moments_GG = (weights_GG * counts_G) @ weights_GG.T
    freedom = float(np.trace(moments_GG) ** 2 / (moments_GG**2).sum())
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return mean - half, mean + half


def finite_interval(interval: tuple[float, float]) -> list[float] | None:
    """An interval as plain data; None where it is infinite."""
    return list(interval) if math.isfinite(interval[0]) else None


def score_bounds(interval: tuple[float, float]) -> list[float] | None:
    """An interval of a score, cut to 0 and 1, which the arithmetic of few groups passes; None where it is infinite."""
    finite = finite_interval(interval)
    return None if finite is None else [max(finite[0], 0.0), min(finite[1], 1.0)]


def bounds_words(bounds: Sequence[float] | None, over: str = "") -> str:
    """What `score_bounds` gives in words; of one group, which says nothing of others, there is no interval.

    Args:
        bounds: Low and high, or None.
        over: What the interval is over, behind a blank.
    """
    return "no interval: one group" if bounds is None else f"95% {bounds[0]:.4f} to {bounds[1]:.4f}{over}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of scores."""

    first: float
    """Score of the first set: mean Dice, or another metric."""
    second: float
    """Score of the second set."""
    interval: tuple[float, float]
    """95% interval of the difference (second less first), as `grouped_interval`."""
    images: int
    """How many slides were compared."""
    metric: str = "Dice"
    """The word for the scores."""

    @property
    def is_gain(self) -> bool:
        """Whether the second is better beyond chance: the whole interval lies above zero."""
        return self.interval[0] > 0

    def __str__(self) -> str:
        """The figures in words."""
        low, high = self.interval
        words = f"95% {low:+.4f} to {high:+.4f}" if math.isfinite(low) else "no interval: one group"
        difference = f"{self.second - self.first:+.4f} ({words})"
        return f"{self.metric} {self.first:.4f} to {self.second:.4f}, {difference} on {self.images} slides"


def paired_difference(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> Difference:
    """How much better one set of scores is than another of the same slides.

    Args:
        first: Dice of each slide.
        second: Other Dice of each, in the same order.
        groups: Group of each slide.

    Raises:
        ValueError: If the lengths differ or there are no slides.
    """
    if not len(first) == len(second) == len(groups) or not len(first):
        counts = f"{len(first)} and {len(second)} scores of {len(groups)} slides"
        raise ValueError(f"{counts}: give one of each for every slide, and at least one slide")
    differences = np.subtract(second, first)
    return Difference(
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        interval=grouped_interval(differences, groups),
        images=len(first),
    )


def run_difference(first_run: Path, second_run: Path, groups: Mapping[str, str]) -> Difference:
    """The difference of two evaluated runs, by their oof.csv.

    Args:
        first_run: runs/E.
        second_run: runs/E of another experiment on the same folds.
        groups: Group of each slide by id, as `joined_groups` gives it.

    Raises:
        InputError: If an oof.csv is missing or they hold different slides.
    """
    tables = [
        read_table(run / "oof.csv", COMPARED_COLUMNS).set_index("id")["dice"].astype(float)
        for run in (first_run, second_run)
    ]
    if set(tables[0].index) != set(tables[1].index):
        rule = f"it scores other slides than {first_run / 'oof.csv'}"
        raise InputError([Fault("oof", str(second_run / "oof.csv"), rule, "evaluate both runs on the same folds")])
    ids = list(tables[0].index)
    return paired_difference(tables[0].tolist(), tables[1].loc[ids].tolist(), [groups[key] for key in ids])
