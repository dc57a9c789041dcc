"""How far scores of detections are from their chance of a hit, and what a line of their logits makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BINS = 10
NEAREST = 1e-6
"""How near scores come to 0 and 1."""


def scaled_score(score: float, line: Sequence[float]) -> float:
    """A score as slope and offset of its logit give it: sigmoid(slope * logit(score) + offset) (Platt 1999)."""
    kept = min(max(score, NEAREST), 1 - NEAREST)
    return (1 + math.tanh((line[0] * math.log(kept / (1 - kept)) + line[1]) / 2)) / 2  # exp would overflow


def calibration_error(scores: np.ndarray, hits: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean gap of score and share of hits, over ten bins of it.

    Args:
        scores: In 0 to 1, (N,).
        hits: Bool (N,).

    Returns:
        0 to 1; 0 where there is no detection.

    Example:
        >>> calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, True, False]))
        0.0
    """
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, scores - hits, BINS)).sum() / max(len(scores), 1))
