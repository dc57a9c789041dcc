"""Thresholds chosen on other folds than the one they are scored on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histofold.schema.manifest import CLASS_KEY, look_up_threshold, look_up_thresholds

FEWEST_IMAGES = 8


def choose_threshold(scores: np.ndarray, grid: Sequence[float], groups: Sequence[str] | None = None) -> float:
    """The threshold nearest to 0.5 that is not clearly worse than the best one.

    Not clearly worse: its mean falls short of the best by at most one standard error of the images' differences (the
    one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984). The best mean of a few images
    is mostly luck, and luck does not carry over to other images. Images of one group are not independent, so that the
    error is that of groups.

    Args:
        scores: Score of each image at each threshold, float (N, T).
        grid: The thresholds, (T,).
        groups: Group of each image; each is a group of its own where they are not given.
    """
    best = scores[:, scores.mean(axis=0).argmax()]
    shortfalls = best[:, None] - scores
    errors = _standard_errors(shortfalls, groups if groups is not None else range(len(scores)))
    good = [t for t, mean, error in zip(grid, shortfalls.mean(axis=0), errors, strict=True) if mean <= error + 1e-9]
    return min(good, key=lambda t: (round(abs(t - 0.5), 6), t))


def _standard_errors(values_NT: np.ndarray, groups: Sequence[object]) -> np.ndarray:
    """Standard error of each column's mean where rows of one group move together, (T,); 0 where there is one group.

    The cluster-robust estimate of Liang and Zeger 1986 (doi:10.1093/biomet/73.1.13) for a mean, with the usual factor
    G / (G - 1) for few groups; of groups of one it is the ordinary standard error.
    """
    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < 2:
        return np.zeros(values_NT.shape[1])
    sums_GT = np.zeros((count, values_NT.shape[1]))
    np.add.at(sums_GT, codes, values_NT - values_NT.mean(axis=0))
    variances_T: np.ndarray = (sums_GT**2).sum(axis=0) * count / (count - 1)
    return np.sqrt(variances_T) / len(values_NT)


def score_column(name: str, threshold: float) -> str:
    """The column of a class's scores at a threshold."""
    return f"{name}@{threshold}"


def choose_thresholds(table: pd.DataFrame, grid: Sequence[float], classes: Sequence[str] = ()) -> dict[str, float]:
    """`default`, and one for each organ and each organ/source with at least `FEWEST_IMAGES` images.

    Where there are several classes, one for each class with as many images instead: structures differ more than organs.

    Args:
        table: Columns organ, source, group (each image its own where there is none), and one of scores for each
            threshold; of several classes one for each of them too.
        grid: The thresholds.
        classes: Names of the classes where there are several.
    """
    columns = list(grid)
    chosen = {"default": choose_threshold(table[columns].to_numpy(), grid, _groups(table))}
    if classes:
        own = {CLASS_KEY + name: table[[score_column(name, t) for t in grid]].to_numpy() for name in classes}
        enough = {key: scores for key, scores in own.items() if len(scores) >= FEWEST_IMAGES}
        return chosen | {key: choose_threshold(scores, grid, _groups(table)) for key, scores in enough.items()}
    keys = {"organ": table["organ"], "organ/source": table["organ"] + "/" + table["source"]}
    for names in keys.values():
        for name, part in table.groupby(names):
            if name.strip("/") and len(part) >= FEWEST_IMAGES:
                chosen[str(name)] = choose_threshold(part[columns].to_numpy(), grid, _groups(part))
    return chosen


def _groups(table: pd.DataFrame) -> list[str] | None:
    return table["group"].tolist() if "group" in table else None


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


def nested_scores(
    table: pd.DataFrame, grid: Sequence[float], classes: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, float]]:
    """Honest scores and the thresholds to ship.

    Each fold is scored at thresholds that the other folds chose; the thresholds that ship are chosen on all folds.
    With a single fold there is nothing to choose on, so it is scored, and ships, at 0.5.

    Returns:
        (scores, thresholds): score of each image in the table's order, as `apply_thresholds` gives it, and the
        thresholds to ship.
    """
    folds = table["fold"].unique()
    if len(folds) < 2:
        thresholds = {"default": 0.5}
        return apply_thresholds(table, thresholds, classes), thresholds
    scores = np.empty((len(table), len(classes)) if classes else len(table))
    for fold in folds:
        inside = (table["fold"] == fold).to_numpy()
        chosen = choose_thresholds(table[~inside], grid, classes)
        scores[inside] = apply_thresholds(table[inside], chosen, classes)
    return scores, choose_thresholds(table, grid, classes)
