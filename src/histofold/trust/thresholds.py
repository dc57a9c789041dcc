"""Thresholds chosen on other folds than the one they are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from histofold.schema.manifest import CLASS_KEY, look_up_threshold, look_up_thresholds

THRESHOLD_GRID = tuple(round(0.05 + 0.05 * step, 2) for step in range(16))
"""What thresholds are chosen from."""
FEWEST_IMAGES = 8
SMOOTHING_LOGITS = 0.6
"""How far along the logit of the threshold its neighbours help to tell its score."""
PRIOR_IMAGES = 4
"""The curve of all images counts as so many images of an organ: few images of its own say little."""


def smoothed_curve(curve_T: np.ndarray, grid: Sequence[float]) -> np.ndarray:
    """A curve of scores over thresholds by local parabolas over their logits (Cleveland 1979, doi:10.2307/2286407).

    The mean of a few images has its highest point somewhere near the best threshold, as chance will have it; the top of
    a parabola through its neighbourhood is steadier.

    Args:
        curve_T: Mean score at each threshold.
        grid: The thresholds, within (0, 1); of fewer than three the curve stays as it is.
    """
    if len(grid) < 3:
        return curve_T
    return np.asarray(_smoothing(tuple(grid)) @ curve_T)


@cache
def _smoothing(grid: tuple[float, ...]) -> np.ndarray:
    """The matrix that takes a curve to its local parabolas: these are linear in the scores."""
    logits_T = np.log(np.asarray(grid) / (1 - np.asarray(grid)))
    offsets_TT = logits_T - logits_T[:, None]
    roots_TT = np.exp(-((offsets_TT / SMOOTHING_LOGITS) ** 2) / 4)  # of Gaussian weights
    fitted = [np.linalg.pinv(np.vander(o, 3) * r[:, None])[2] * r for o, r in zip(offsets_TT, roots_TT, strict=True)]
    return np.array(fitted)


def blended_curve(scores_NT: np.ndarray, prior_T: np.ndarray | None = None) -> np.ndarray:
    """The mean score at each threshold, drawn towards that of more images as if it were `PRIOR_IMAGES` of them."""
    if prior_T is None:
        return np.asarray(scores_NT.mean(axis=0))
    return np.asarray((scores_NT.sum(axis=0) + PRIOR_IMAGES * prior_T) / (len(scores_NT) + PRIOR_IMAGES))


def best_threshold(curve_T: np.ndarray, grid: Sequence[float]) -> float:
    """The threshold where the smoothed curve is highest; of equal ones the nearest to 0.5, then the lower one.

    By simulation with best thresholds from 0.1 to 0.7 and 8 to 100 images this loses less Dice than the highest point
    of the plain curve, and than the one-standard-error rule (benchmarks/bench_thresholds.py).
    """
    smooth_T = smoothed_curve(curve_T, grid)
    best = smooth_T.max()
    return min(
        (t for t, score in zip(grid, smooth_T, strict=True) if score >= best - 1e-9),
        key=lambda t: (round(abs(t - 0.5), 6), t),
    )


def score_column(name: str, threshold: float) -> str:
    """The column of a class's scores at a threshold."""
    return f"{name}@{threshold}"


def choose_thresholds(table: pd.DataFrame, grid: Sequence[float], classes: Sequence[str] = ()) -> dict[str, float]:
    """`default`, and one for each organ and each organ/source with at least `FEWEST_IMAGES` images.

    Where there are several classes, one for each class with as many images instead: structures differ more than organs.
    The fewer images an organ has, the more its curve is drawn towards that of all, and that of a source of it towards
    the organ's.

    Args:
        table: Columns organ, source, and one of scores for each threshold; of several classes one for each of them too.
        grid: The thresholds.
        classes: Names of the classes where there are several.
    """
    columns = list(grid)
    everything_T = blended_curve(table[columns].to_numpy())
    chosen = {"default": best_threshold(everything_T, grid)}
    if classes:
        if len(table) >= FEWEST_IMAGES:
            for name in classes:
                own_NT = table[[score_column(name, t) for t in grid]].to_numpy()
                chosen[CLASS_KEY + name] = best_threshold(blended_curve(own_NT, everything_T), grid)
        return chosen
    for organ, part in table.groupby("organ"):
        organ_T = blended_curve(part[columns].to_numpy(), everything_T)
        if organ and len(part) >= FEWEST_IMAGES:
            chosen[str(organ)] = best_threshold(organ_T, grid)
        for source, images in part.groupby("source"):
            if (organ or source) and len(images) >= FEWEST_IMAGES:
                curve_T = blended_curve(images[columns].to_numpy(), organ_T)
                chosen[f"{organ}/{source}"] = best_threshold(curve_T, grid)
    return chosen


def slide_cuts(table: pd.DataFrame, thresholds: dict[str, float], classes: Sequence[str] = ()) -> np.ndarray:
    """The threshold of each image: organ/source, else organ, else default.

    Returns:
        float (N,); where there are several classes (N, K), one for each.
    """
    places = zip(table["organ"], table["source"], strict=True)
    if classes:
        cuts = [look_up_thresholds(thresholds, organ, source, classes) for organ, source in places]
        return np.array(cuts, float).reshape(len(table), len(classes))
    return np.array([look_up_threshold(thresholds, organ, source) for organ, source in places], float)


def apply_thresholds(table: pd.DataFrame, thresholds: dict[str, float], classes: Sequence[str] = ()) -> np.ndarray:
    """Score of each image at its threshold: organ/source, else organ, else default.

    Returns:
        float (N,); where there are several classes (N, K), each at its own threshold.
    """
    rows = table.to_dict("records")
    if classes:
        scores = []
        for row in rows:
            cuts = look_up_thresholds(thresholds, row["organ"], row["source"], classes)
            assert isinstance(cuts, tuple)  # one for each of several classes
            scores.append([row[score_column(name, cut)] for name, cut in zip(classes, cuts, strict=True)])
        return np.array(scores)
    return np.array([row[look_up_threshold(thresholds, row["organ"], row["source"])] for row in rows])
