"""A run is evaluated: out-of-fold scores, thresholds chosen nested over folds, and a summary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from histofold.competitions.base import Truth
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.core.rle.runs import class_runs
from histofold.data.changes import changed_inputs, content_inputs, refuse_changed_data
from histofold.data.leaks import run_leaks
from histofold.data.sources import JoinedTruth, Source, joined_samples, load_sources
from histofold.data.store import known_folds
from histofold.imaging.slide import open_slide
from histofold.imaging.stain import network_view
from histofold.predict.tiled import grid_of, is_blank_tile, read_padded
from histofold.schema.files import write_atomically
from histofold.schema.manifest import Manifest, file_sha256
from histofold.schema.parse import plain, write_json
from histofold.schema.prediction import views_by_zoom
from histofold.schema.sample import Sample
from histofold.trust.intervals import grouped_interval
from histofold.trust.oof import THRESHOLD_GRID, FoldRun, finished_folds, run_experiment, score_folds
from histofold.trust.thresholds import apply_thresholds, nested_scores

OOF_COLUMNS = ("id", "fold", "organ", "source", "dice")
"""Of oof.csv; where there are several classes a column `dice_CLASS` follows for each."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found, and what it found it with: what its report shows."""

    run: Path
    """The run, runs/E."""
    folds: Sequence[FoldRun]
    """Its finished folds."""
    truth: Truth
    """Of every slide."""
    samples: Mapping[str, Sample]
    """The slides by id."""
    oof: pd.DataFrame
    """oof.csv."""
    thresholds: Mapping[str, float]
    """thresholds.json."""
    summary: Mapping[str, Any]
    """summary.json."""
    notes: Sequence[str]
    """What a reader must know beside the figures."""

    def lines(self) -> list[str]:
        """The figures in words."""
        summary = self.summary
        words = "no interval: one group"  # which says nothing of others
        if summary["groups"] > 1:
            low, high = summary["interval"]
            words = f"95% {low:.4f} to {high:.4f} over {summary['groups']} groups"
        if missing := summary["missing_folds"]:
            words += f"; incomplete, without the unfinished folds {', '.join(map(str, missing))}"
        of_classes = [class_words(summary)] if "classes" in summary else []
        everything = f"a mask of everything scores {summary['dice_of_everything']:.4f}"
        return [
            *(fold_words(fold, values) for fold, values in summary["folds"].items()),
            threshold_words(summary, self.thresholds),
            *of_classes,
            f"out-of-fold Dice {summary['dice']:.4f} ({words}); {everything}",
        ]


_AGREEMENT = 1e-4
"""Dice of a fold at 0.5 and that of its training differ by less where nothing has changed between them."""


def fold_words(fold: str, values: Mapping[str, Any]) -> str:
    """The Dice of a fold in words: at thresholds of the other folds, at 0.5, and how training saw it."""
    half, trained = values["dice_at_half"], values["last_dice"]
    training = "as in training"
    if abs(half - trained) >= _AGREEMENT:
        training = f"{trained:.4f} in training: settings of prediction, masks or the machine are others since"
    return f"fold {fold}: Dice {values['dice']:.4f}; {half:.4f} at threshold 0.5, {training}"


def threshold_words(summary: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """What the out-of-fold Dice was cut at, in words."""
    if len(summary["folds"]) < 2:
        return "threshold 0.5: one fold alone has no other to choose it on"
    own = " and others by organ or class" if len(thresholds) > 1 else ""
    chosen = f"each fold at those that the others chose; all of them choose {thresholds['default']:g}{own}"
    return f"thresholds: {chosen}; at 0.5 the Dice is {summary['dice_at_half']:.4f}"


def class_words(summary: Mapping[str, Any]) -> str:
    """The Dice of each class in words."""
    return "Dice by class: " + ", ".join(f"{name} {dice:.4f}" for name, dice in summary["classes"].items())


def evaluate_run(run: Path, root: Path | None = None) -> Evaluation:
    """Score a run out of fold and write oof.csv, thresholds.json and summary.json.

    Args:
        run: runs/E, with at least one finished fold.
        root: The competition folder; None for where its dataset says.

    Raises:
        InputError: If the run has no finished fold, one was trained on what it is scored on, or an image that it is
            scored on is no longer in the competition.

    Example:
        >>> evaluation = evaluate_run(Path("runs/unet_resnet34"))
        >>> print(*evaluation.lines(), sep="\\n")
    """
    folds = finished_folds(run)
    leaks = run_leaks(run)
    if leaks:
        raise InputError(leaks)
    experiment = run_experiment(run)
    if root is not None:
        experiment = replace(experiment, data=replace(experiment.data, root=str(root)))
    sources = load_sources(experiment)
    refuse_changed_data(sources)
    _refuse_other_inputs(folds, sources)
    for fold, source in itertools.product(folds, sources):
        source.held_out(fold.fold)  # refuses images that are gone before anything is predicted
    truth, samples = JoinedTruth(sources), joined_samples(sources)
    missing = sorted(set(known_folds(experiment)) - {fold.fold for fold in folds})
    refuse_costly_skipping(folds[0].manifest, truth, list(samples.values()))
    table = score_folds(run, folds, sources)
    names = folds[0].manifest.classes
    several = names if len(names) > 1 else ()
    nested, thresholds = nested_scores(table, THRESHOLD_GRID, several)
    oof = _oof_table(table, nested, several)
    summary = _summarise(table, oof, thresholds, folds, several) | {"missing_folds": missing}
    write_atomically(run / "oof.csv", oof.to_csv(index=False, float_format="%.6f"))
    write_json(run / "thresholds.json", thresholds)
    write_json(run / "summary.json", summary)
    return Evaluation(
        run=run,
        folds=folds,
        truth=truth,
        samples=samples,
        oof=oof,
        thresholds=thresholds,
        summary=summary,
        notes=_unfinished_notes(missing),
    )


def _refuse_other_inputs(folds: Sequence[FoldRun], sources: Sequence[Source]) -> None:
    """Refuse folds whose images or masks are no longer those that they were trained on and scored by."""
    now: dict[str, str] = {}
    for source in sources:
        now |= content_inputs({source.key(key): content for key, content in source.info.contents.items()})
    faults = []
    for fold in folds:
        before = {key: value for key, value in fold.record.inputs.items() if key in now}
        rule = "; ".join(changed_inputs(before, now))
        if rule:
            remedy = f"remove {fold.folder} and train it anew, or undo the change"
            faults.append(Fault(fold.folder.name, str(fold.folder), f"since it was trained there are {rule}", remedy))
    if faults:
        raise InputError(faults)


def _unfinished_notes(missing: Sequence[int]) -> list[str]:
    """Words about folds that are not finished: the score then speaks of fewer images."""
    if not missing:
        return []
    note = f"folds {', '.join(map(str, missing))} are not finished: the score speaks of the other folds alone"
    logger.warning(note)
    return [note]


def _oof_table(table: pd.DataFrame, nested: np.ndarray, several: Sequence[str]) -> pd.DataFrame:
    """oof.csv, from the scores of each slide, (N,), or of several classes (N, K)."""
    own = {f"dice_{name}": nested[:, number] for number, name in enumerate(several)}
    dice = nested.mean(axis=1) if several else nested
    return table[["id", "fold", "organ", "source"]].assign(dice=dice, **own)[[*OOF_COLUMNS, *own]]


def _summarise(
    table: pd.DataFrame,
    oof: pd.DataFrame,
    thresholds: dict[str, float],
    folds: Sequence[FoldRun],
    several: Sequence[str],
) -> dict[str, Any]:
    """The figures of a run as plain data."""
    scores, groups = oof["dice"].to_numpy(), int(table["group"].nunique())
    optimistic = apply_thresholds(table, thresholds, several)
    by_class = {name: float(oof[f"dice_{name}"].mean()) for name in several}
    return {
        "dice": float(scores.mean()),
        "interval": list(grouped_interval(scores, table["group"].tolist())) if groups > 1 else None,
        "images": len(table),
        "groups": groups,
        "dice_at_half": float(table[0.5].mean()),
        "dice_of_everything": float(table["everything"].mean()),
        "dice_thresholds_on_all_optimistic": float(optimistic.mean()),
        "weights_sha256": {fold.folder.name: file_sha256(fold.folder / "model.safetensors") for fold in folds},
        "settings": {fold.folder.name: plain(fold.record.manifest) for fold in folds},
        "folds": {
            str(fold.fold): {
                "dice": float(scores[(table["fold"] == fold.fold).to_numpy()].mean()),
                "dice_at_half": float(table.loc[table["fold"] == fold.fold, 0.5].mean()),
                "last_step": fold.record.steps,
                "best_step": fold.record.best_step,
                "best_dice_optimistic": fold.record.best_dice_optimistic,
                "last_dice": fold.record.dice,
            }
            for fold in folds
        },
        **({"classes": by_class} if several else {}),
    }


def refuse_costly_skipping(manifest: Manifest, truth: Truth, samples: Sequence[Sample]) -> None:
    """Refuse a manifest that skips blank tiles where some of them hold truth; one that does not skip passes unseen.

    Args:
        manifest: The settings of prediction.
        truth: Of the slides.
        samples: Held-out slides.

    Raises:
        InputError: With every slide that would lose truth, and how many pixels.
    """
    if not manifest.skip_blank:
        return
    faults = []
    for sample in tqdm(samples, desc="blank tiles", unit="slide", leave=False, dynamic_ncols=True):
        lost = blank_truth_pixels(manifest, truth, sample)
        if lost:
            rule = f"{lost} pixels of its truth lie in tiles that skip_blank would leave out"
            faults.append(Fault(sample.id, str(sample.image_path), rule, "set predict.skip_blank = false"))
    if faults:
        raise InputError(faults)


def blank_truth_pixels(manifest: Manifest, truth: Truth, sample: Sample) -> int:
    """Pixels of a slide's truth, of all classes, that blank tiles answer for: the most of any zoom of the views.

    Of blended tiles each counts with all that it shows, since it pulls down what overlaps with it.
    """
    labelled = class_runs(truth.target(sample))
    lost = [0]
    with open_slide(sample.image_path) as slide:
        for zoom in views_by_zoom(manifest.views):
            zoomed = replace(manifest, preprocessing=manifest.preprocessing.zoomed(zoom))
            view = network_view(slide, zoomed.preprocessing, sample.pixel_size_um)
            pixels = 0
            for tile in grid_of(zoomed, view.shape_hw):
                if is_blank_tile(read_padded(view, tile)):
                    region = tile.read if manifest.blend else tile.write
                    window = _original_window(region, view.shape_hw, slide.shape_hw)
                    pixels += sum(int(runs.to_window(*window).sum()) for runs in labelled)
            lost.append(pixels)
    return max(lost)


def _original_window(
    region: tuple[slice, slice], scaled_hw: tuple[int, int], original_hw: tuple[int, int]
) -> tuple[slice, slice]:
    """A region of the scaled image in pixels of the file; cut pixels count in full."""
    y, x = (
        slice(math.floor(span.start * original / scaled), math.ceil(span.stop * original / scaled))
        for span, scaled, original in zip(region, scaled_hw, original_hw, strict=True)
    )
    return y, x
