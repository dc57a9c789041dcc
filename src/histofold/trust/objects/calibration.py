"""Scores of a run's detections as chances of a hit: what they are off by, and the line that ensembles scale them by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from histofold.core.metrics.calibration import NEAREST, calibration_error, scaled_score
from histofold.core.metrics.ranked import RankedHits

OWN_LINE = (1.0, 0.0)
LEAST_SLOPE = 0.01
"""A line never turns a ranking round."""


def fit_score_line(images: Sequence[RankedHits]) -> tuple[float, float]:
    """Slope and offset of the scores' logits that make hits likeliest (Platt 1999); (1, 0) where nothing can be learnt.

    Args:
        images: Detections of images that the networks did not see.
    """
    from sklearn.linear_model import LogisticRegression

    scores, hits = _pooled(images, [OWN_LINE] * len(images))
    if hits.all() or not hits.any():
        return OWN_LINE
    kept = np.clip(scores, NEAREST, 1 - NEAREST)
    logits = np.log(kept / (1 - kept))
    fitted = LogisticRegression(C=1e3).fit(logits[:, None], hits)
    if fitted.coef_[0, 0] >= LEAST_SLOPE:
        return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    share = float(hits.mean())  # these scores tell nothing: all become about the share of hits
    return LEAST_SLOPE, math.log(share / (1 - share)) - LEAST_SLOPE * float(logits.mean())


def calibration_summary(images: Sequence[RankedHits], folds: Sequence[int]) -> dict[str, Any]:
    """The line of all images, and what scores are off by: as they are, and by lines that the other folds gave.

    Args:
        images: Detections of each, with what is a hit.
        folds: The fold that did not see each.
    """
    lines = {
        fold: fit_score_line([image for image, other in zip(images, folds, strict=True) if other != fold])
        for fold in set(folds)
    }
    return {
        "score_line": list(fit_score_line(images)),
        "error": calibration_error(*_pooled(images, [OWN_LINE] * len(images))),
        "error_scaled": calibration_error(*_pooled(images, [lines[fold] for fold in folds])),
    }


def _pooled(images: Sequence[RankedHits], lines: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores by the line of each image, and hits, of all detections that count."""
    scores = [
        scaled_score(score, line)
        for image, line in zip(images, lines, strict=True)
        for score in image.scores[image.counted].tolist()
    ]
    return np.array(scores), np.concatenate([np.zeros(0, bool), *(image.hits[image.counted] for image in images)])
