"""Several runs side by side: the same slides, each run's logits and mask beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histofold.commands.pictures import class_overlays
from histofold.competitions.base import Competition
from histofold.competitions.classes import class_dice
from histofold.core.faults import Fault, InputError
from histofold.predict.image import predict_masks
from histofold.report.logits import COLOUR_LIMIT, draw_logits
from histofold.report.overlays import contact_sheet
from histofold.schema.manifest import look_up_thresholds
from histofold.schema.sample import Sample
from histofold.trust.logit_map import logit_map
from histofold.trust.oof import FoldRun, finished_folds, run_thresholds

CELL_SIDE = 420
SLIDES = 4


def beside_sheet(
    runs: Sequence[Path], competition: Competition, samples: Mapping[str, Sample], slides: int = SLIDES
) -> np.ndarray:
    """Slides from the best to the worst of the first run, each predicted by the fold of each run that never saw it.

    Args:
        runs: Evaluated runs of the same folds.
        competition: Knows the truth.
        samples: By id.
        slides: Most slides.

    Returns:
        Contact sheet, uint8 (H, W, 3): a row is a slide, of several classes one of its classes: the truth, then logits
        and mask of each run.

    Raises:
        InputError: If a run is not evaluated, or no fold of it held out one of the slides.
    """
    oof = pd.read_csv(runs[0] / "oof.csv", dtype={"id": str}).sort_values(["dice", "id"], ascending=[False, True])
    places = dict.fromkeys(np.linspace(0, len(oof) - 1, min(slides, len(oof))).round().astype(int))
    folds = {run: finished_folds(run) for run in runs}
    thresholds = {run: run_thresholds(run) for run in runs}
    images, titles = [], []
    for key in (oof["id"].iloc[place] for place in places):
        sample = samples[key]
        seen = {run: _fold_without(folds[run], key, run) for run in runs}
        for row in _class_rows(seen, competition, sample, thresholds):
            images += [image for image, _ in row]
            titles += [title for _, title in row]
    return contact_sheet(images, titles, columns=1 + 2 * len(runs), cell=CELL_SIDE)


def _class_rows(
    folds: Mapping[Path, FoldRun],
    competition: Competition,
    sample: Sample,
    thresholds: Mapping[Path, Mapping[str, float]],
) -> list[list[tuple[np.ndarray, str]]]:
    """For each class of a slide the pictures of its row, with their titles.

    Args:
        folds: The fold of each run that never saw the slide.
        competition: Knows the truth.
        sample: The slide.
        thresholds: Of each run.
    """
    truth = competition.target(sample)
    classes = next(iter(folds.values())).manifest.classes
    names = classes if len(classes) > 1 else ("",)
    pictures = class_overlays(sample.image_path, truth, None, CELL_SIDE)
    rows = [
        [(picture, " · ".join(filter(None, (sample.id, sample.organ, name, "truth"))))]
        for picture, name in zip(pictures, names, strict=True)
    ]
    for run, fold in folds.items():
        ensemble = fold.ensemble()
        logits_KHW = logit_map(ensemble, fold.manifest, sample, CELL_SIDE)
        cuts = look_up_thresholds(thresholds[run], sample.organ, sample.source, classes)
        (prediction,) = predict_masks(ensemble, sample, fold.manifest, [cuts], competition.never_empty)
        overlays = class_overlays(sample.image_path, truth, prediction, CELL_SIDE)
        scores = class_dice(prediction, truth)
        for row, logits_HW, overlay, score in zip(rows, logits_KHW, overlays, scores, strict=True):
            words = f"{run.name}: logits, -{COLOUR_LIMIT:g} blue to {COLOUR_LIMIT:g} red"
            row.append((draw_logits(logits_HW, row[0][0].shape[:2]), words))
            row.append((overlay, f"{run.name}: Dice {score:.3f}"))
    return rows


def _fold_without(folds: Sequence[FoldRun], key: str, run: Path) -> FoldRun:
    """The fold that held a slide out."""
    fold = next((fold for fold in folds if key in fold.record["dice_by_id"]), None)
    if fold is None:
        raise InputError([Fault(key, str(run), "no fold of this run held it out", "compare runs of the same folds")])
    return fold
