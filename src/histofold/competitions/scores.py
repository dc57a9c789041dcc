"""Dice of masks given as runs, without decoding either: of one mask, of classes, of a set of images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from histofold.competitions.base import Score
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Masks, Runs, class_runs


def runs_dice(prediction: Runs | None, truth: Runs) -> float:
    """Dice of two masks given as runs of the same order, without decoding either; both empty counts as 1."""
    if prediction is None or prediction.area == 0 or truth.area == 0:
        empty = (prediction is None or prediction.area == 0) and truth.area == 0
        return 1.0 if empty else 0.0
    # `covered(x)` = mask pixels of the prediction before position x: whole runs before it, and part of one run.
    starts, lengths = prediction.starts, prediction.lengths
    before = lengths.cumsum() - lengths

    def covered(positions: np.ndarray) -> np.ndarray:
        run = starts.searchsorted(positions, side="right") - 1
        inside = (positions - starts[run]).clip(0, lengths[run])
        return (before[run] + inside) * (run >= 0)

    overlap = int((covered(truth.starts + truth.lengths) - covered(truth.starts)).sum())
    return 2 * overlap / (prediction.area + truth.area)


def class_dice(prediction: Masks, truth: Masks) -> list[float]:
    """Dice of each class; a class that is empty in both counts as 1.

    Raises:
        ValueError: If they are not of as many classes.
    """
    return [runs_dice(*pair) for pair in zip(class_runs(prediction), class_runs(truth), strict=True)]


def masks_dice(prediction: Masks, truth: Masks) -> float:
    """Dice of an image: the mean over its classes."""
    by_class = class_dice(prediction, truth)
    return sum(by_class) / len(by_class)


def mean_dice_score(predictions: Mapping[str, Masks], targets: Mapping[str, Masks]) -> Score:
    """Mean over images of Dice (the mean over classes), from runs; one without a prediction counts as an empty one.

    Raises:
        InputError: If a prediction and its truth differ in size.
    """
    by_id = {}
    for key, truth in targets.items():
        wanted = class_runs(truth)
        predicted = class_runs(predictions[key]) if key in predictions else (None,) * len(wanted)
        for prediction, runs in zip(predicted, wanted, strict=True):
            if prediction is not None and prediction.shape_hw != runs.shape_hw:
                rule = f"prediction is {prediction.shape_hw} and truth is {runs.shape_hw} pixels"
                raise InputError([Fault(key, "predictions", rule, "predict at the image's own size")])
        by_id[key] = sum(runs_dice(*pair) for pair in zip(predicted, wanted, strict=True)) / len(wanted)
    return Score(sum(by_id.values()) / max(1, len(by_id)), by_id)
