"""Dice of masks, exactly as the hosts count it."""

from __future__ import annotations

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of two masks, 2 |A and B| / (|A| + |B|); both empty counts as 1.

    Source: the evaluation page of hubmap-organ-segmentation (mean of this over images) and Dice, Ecology 26, 1945.

    Args:
        prediction: Mask of any dtype and shape, non-zero = mask.
        truth: Mask of the same shape.

    Raises:
        ValueError: If the shapes differ; nothing is broadcast.

    Example:
        >>> dice(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 0]]))
        0.6666666666666666
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape} and truth is {truth.shape}: resize the prediction first")
    prediction_set, truth_set = prediction != 0, truth != 0
    total = int(np.count_nonzero(prediction_set)) + int(np.count_nonzero(truth_set))
    if total == 0:
        return 1.0
    return 2 * int(np.count_nonzero(prediction_set & truth_set)) / total
