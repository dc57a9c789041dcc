"""Runs compared: paired differences, and a sheet of the same slides with the truth and each run's logits and mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps

from histofold.competitions.base import Truth, class_dice
from histofold.competitions.tables import read_table
from histofold.core.faults import Fault, InputError
from histofold.core.rle.sets import without_runs
from histofold.imaging.slide import open_sample
from histofold.imaging.stain import network_view
from histofold.predict.image import StageForward, forward_batch, of_organ, predict_masks
from histofold.predict.stages import Stage
from histofold.predict.tiled import Tiling, grid_of, predict_bands
from histofold.report.pictures.overlays import contact_sheet, save_png
from histofold.report.pictures.slides import class_overlays
from histofold.schema.manifest import look_up_thresholds
from histofold.schema.sample import Sample
from histofold.trust.evaluation import Evaluation
from histofold.trust.intervals import run_difference
from histofold.trust.objects.comparison import object_difference
from histofold.trust.objects.evaluate import ObjectEvaluation
from histofold.trust.oof import FoldRun, evaluated_folds, run_thresholds

CELL_SIDE = 420
SLIDES = 4
COLOUR_LIMIT = 6.0
"""Logits of this size and beyond have the darkest colours."""
LARGEST_LOGIT = 10.0


def refuse_unevaluated(runs: Sequence[Path]) -> None:
    """Refuse to compare with runs that have no scores, before anything is predicted.

    Raises:
        InputError: With each of them.
    """
    missing = [run for run in runs if not (run / "oof.csv").is_file()]
    if missing:
        remedy = "run `histofold evaluate {}` first"
        raise InputError([Fault(run.name, str(run / "oof.csv"), "no such file", remedy.format(run)) for run in missing])


def compare_runs(evaluation: Evaluation, others: Sequence[Path], uncleaned: Path | None = None) -> list[str]:
    """Hold a run against others, in figures and, where they are of masks, in the picture beside.png.

    Args:
        evaluation: Of the run.
        others: Other evaluated runs of the same folds.
        uncleaned: One that differs in data.clean_blank alone: whether cleaning the labels gained.

    Returns:
        The figures, a line each.
    """
    run, samples = evaluation.run, evaluation.samples
    if isinstance(evaluation, ObjectEvaluation):  # their labels are not cleaned, and their networks may have no logits
        return [f"{run.name} to {other.name}: {object_difference(evaluation, other)}" for other in others]
    lines = []
    if uncleaned is not None:
        gain = run_difference(uncleaned, run, evaluation.groups)
        lines.append(f"cleaning: {gain}: {'switch it on' if gain.is_gain else 'leave it off'}")
    lines += [f"{run.name} to {other.name}: {run_difference(run, other, evaluation.groups)}" for other in others]
    if others:
        save_png(run / "beside.png", comparison_sheet([run, *others], evaluation.truth, samples))
        lines.append(f"side by side: {run / 'beside.png'}")
    return lines


def comparison_sheet(
    runs: Sequence[Path], truth: Truth, samples: Mapping[str, Sample], slides: int = SLIDES
) -> np.ndarray:
    """Slides from the best to the worst of the first run, each predicted by the fold of each run that never saw it.

    Args:
        runs: Evaluated runs of the same folds.
        truth: Of the slides.
        samples: By id.
        slides: Most slides.

    Returns:
        Contact sheet, uint8 (H, W, 3): a row is a slide, of several classes one of its classes: the truth, then logits
        and mask of each run.

    Raises:
        InputError: If a run is not evaluated, or no fold of it held out one of the slides.
    """
    oof = (
        read_table(runs[0] / "oof.csv", ("id", "dice"))
        .astype({"dice": float})
        .sort_values(["dice", "id"], ascending=[False, True])
    )
    places = dict.fromkeys(np.linspace(0, len(oof) - 1, min(slides, len(oof))).round().astype(int))
    folds = {run: evaluated_folds(run) for run in runs}
    thresholds = {run: run_thresholds(run) for run in runs}
    images, titles = [], []
    for key in (oof["id"].iloc[place] for place in places):
        sample = samples[key]
        seen = {run: _fold_without(folds[run], key, run) for run in runs}
        for row in _class_rows(seen, truth, sample, thresholds):
            images += [image for image, _ in row]
            titles += [title for _, title in row]
    return contact_sheet(images, titles, columns=1 + 2 * len(runs), cell=CELL_SIDE)


def _class_rows(
    folds: Mapping[Path, FoldRun],
    truth: Truth,
    sample: Sample,
    thresholds: Mapping[Path, Mapping[str, float]],
) -> list[list[tuple[np.ndarray, str]]]:
    """For each class of a slide the pictures of its row, with their titles.

    Args:
        folds: The fold of each run that never saw the slide.
        truth: Of the slides.
        sample: The slide.
        thresholds: Of each run.
    """
    target = truth.target(sample)
    classes = next(iter(folds.values())).manifest.classes
    names = classes if len(classes) > 1 else ("",)
    pictures = class_overlays(sample, target, None, CELL_SIDE)
    rows = [
        [(picture, " · ".join(filter(None, (sample.id, sample.organ, name, "truth"))))]
        for picture, name in zip(pictures, names, strict=True)
    ]
    for run, fold in folds.items():
        ensemble = fold.ensemble()
        logits_KHW = logit_map(ensemble[0], sample, CELL_SIDE, fold.forward(truth, [sample]))
        cuts = look_up_thresholds(thresholds[run], sample.organ, sample.source, classes)
        (prediction,) = predict_masks(ensemble, sample, [cuts], truth.never_empty, fold.forward(truth, [sample]))
        overlays = class_overlays(sample, target, prediction, CELL_SIDE)
        scores = class_dice(without_runs(prediction, truth.ignored(sample)), target)
        for row, logits_HW, overlay, score in zip(rows, logits_KHW, overlays, scores, strict=True):
            words = f"{run.name}: logits, -{COLOUR_LIMIT:g} blue to {COLOUR_LIMIT:g} red"
            row.append((draw_logits(logits_HW, row[0][0].shape[:2]), words))
            row.append((overlay, f"{run.name}: Dice {score:.3f}"))
    return rows


def _fold_without(folds: Sequence[FoldRun], key: str, run: Path) -> FoldRun:
    """The fold that held a slide out."""
    fold = next((fold for fold in folds if key in fold.record.dice_by_id), None)
    if fold is None:
        raise InputError([Fault(key, str(run), "no fold of this run held it out", "compare runs of the same folds")])
    return fold


def logit_map(stage: Stage, sample: Sample, side: int, forward: StageForward = forward_batch) -> np.ndarray:
    """Logits of the average over the views of one zoom, every so many pixels of the network's scale.

    Args:
        stage: The network at one zoom.
        sample: The slide.
        side: Most pixels of the longer side.
        forward: Takes each batch through the stage.

    Returns:
        float32 (K, h, w), within plus and minus `LARGEST_LOGIT`.

    Raises:
        ImageError: If the slide cannot be read.
    """
    manifest = stage.manifest
    with open_sample(sample) as slide:
        view = network_view(slide, manifest.preprocessing, sample.pixel_size_um)
        step = max(1, -(-max(view.shape_hw) // side))
        tiling = Tiling(grid_of(manifest, view.shape_hw), manifest.batch, manifest.blend)
        bare = [partial(forward, stage, networks) for networks in stage.networks]
        forwards = [partial(of_organ, each, sample.organ) for each in bare]
        bands = predict_bands(forwards, view, tiling, stage.threaded)
        thinned = [values_KHW[:, -y % step :: step, ::step].copy() for y, values_KHW in bands]
    logits_KHW = np.concatenate(thinned, axis=1).astype(np.float64)
    if manifest.average == "probabilities":
        probs_KHW = np.clip(logits_KHW, 1e-12, 1 - 1e-12)
        logits_KHW = np.log(probs_KHW) - np.log1p(-probs_KHW)
    return np.clip(logits_KHW, -LARGEST_LOGIT, LARGEST_LOGIT).astype(np.float32)


def draw_logits(logits_HW: np.ndarray, shape_hw: tuple[int, int]) -> np.ndarray:
    """Logits in blue (background), white (undecided) and red (structure).

    Args:
        logits_HW: float, any size.
        shape_hw: Height and width of the picture in pixels.

    Returns:
        RGB uint8, (h, w, 3).
    """
    resized_HW = cv2.resize(logits_HW.astype(np.float32), shape_hw[::-1], interpolation=cv2.INTER_LINEAR)
    shares_HW = np.clip((resized_HW / COLOUR_LIMIT + 1) / 2, 0, 1)
    colours_HWC = colormaps["RdBu_r"](shares_HW)[..., :3]
    return np.rint(colours_HWC * 255).astype(np.uint8)
