"""`histofold evaluate runs/E`: out-of-fold score, thresholds and report."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from histofold.commands.beside import beside_sheet
from histofold.commands.options import parse_options
from histofold.commands.pictures import class_overlays
from histofold.competitions.base import Competition
from histofold.core.faults import Fault, InputError
from histofold.data.leaks import run_leaks
from histofold.data.sources import JoinedCompetition, joined_samples, load_sources
from histofold.report.overlays import contact_sheet, save_png
from histofold.report.reports import write_oof_report
from histofold.schema.atomic import write_atomically
from histofold.schema.manifest import file_sha256, look_up_thresholds
from histofold.schema.sample import Sample
from histofold.train.fold import known_folds
from histofold.trust.blank_tiles import refuse_costly_skipping
from histofold.trust.cleaning_gain import cleaning_words
from histofold.trust.oof import (
    OOF_COLUMNS,
    THRESHOLD_GRID,
    FoldRun,
    finished_folds,
    grouped_interval,
    predict_slide,
    run_experiment,
    score_folds,
    warn_unfinished,
)
from histofold.trust.paired import run_difference
from histofold.trust.thresholds import apply_thresholds, nested_scores


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score every held-out slide through the kernel's predict code; choose thresholds nested over folds."""

    run: tyro.conf.Positional[Path]
    """The run, runs/E."""
    cleaning_gain_over: Path | None = None
    """An evaluated run that differs in data.clean_blank alone: say whether cleaning the labels gained."""
    beside: tuple[Path, ...] = ()
    """Other evaluated runs of the same folds: print the paired differences and draw runs/E/beside.png."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(EvaluateOptions, "evaluate", arguments)
    _refuse_unevaluated([*filter(None, [options.cleaning_gain_over]), *options.beside])
    summary = evaluate_run(options.run)
    if "classes" in summary:
        print(_class_words(summary))
    print(f"out-of-fold Dice {summary['dice']:.4f} ({_interval_words(summary)})")
    if options.cleaning_gain_over is not None or options.beside:
        _compare(options)
    print(f"report: {options.run / 'report.html'}")
    return 0


def _refuse_unevaluated(others: Sequence[Path]) -> None:
    """Refuse to compare with runs that have no scores, before anything is predicted.

    Raises:
        InputError: With each of them.
    """
    missing = [run for run in others if not (run / "oof.csv").is_file()]
    if missing:
        remedy = "run `histofold evaluate {}` first"
        raise InputError([Fault(run.name, str(run / "oof.csv"), "no such file", remedy.format(run)) for run in missing])


def _compare(options: EvaluateOptions) -> None:
    """Hold the run against others, in figures and in a picture."""
    sources = load_sources(run_experiment(options.run))
    samples = joined_samples(sources)
    if options.cleaning_gain_over is not None:
        print(cleaning_words(run_difference(options.cleaning_gain_over, options.run, samples)))
    for other in options.beside:
        print(f"{options.run.name} to {other.name}: {run_difference(options.run, other, samples)}")
    if options.beside:
        picture = beside_sheet([options.run, *options.beside], JoinedCompetition(sources), samples)
        save_png(options.run / "beside.png", picture)
        print(f"side by side: {options.run / 'beside.png'}")


def evaluate_run(run_folder: Path) -> dict[str, Any]:
    """Write oof.csv, thresholds.json and report.html of a run; gives the summary.

    Raises:
        InputError: If the run has no finished fold, one was trained on what it is scored on, or an image that it is
            scored on is no longer in the competition.
    """
    folds = finished_folds(run_folder)
    leaks = run_leaks(run_folder)
    if leaks:
        raise InputError(leaks)
    experiment = run_experiment(run_folder)
    sources = load_sources(experiment)
    for fold, source in itertools.product(folds, sources):
        source.held_out(fold.fold)  # refuses images that are gone before anything is predicted
    competition, samples = JoinedCompetition(sources), joined_samples(sources)
    notes = warn_unfinished(folds, known_folds(experiment))
    refuse_costly_skipping(folds[0].manifest, competition, list(samples.values()))
    table = score_folds(run_folder, folds, competition, samples)
    names = folds[0].manifest.classes
    several = names if len(names) > 1 else ()
    nested, thresholds = nested_scores(table, THRESHOLD_GRID, several)
    oof = _oof_table(table, nested, several)
    write_atomically(run_folder / "oof.csv", oof.to_csv(index=False, float_format="%.6f"))
    write_atomically(run_folder / "thresholds.json", json.dumps(thresholds, indent=2) + "\n")
    summary = summarise(table, oof["dice"].to_numpy(), thresholds, folds)
    if several:
        summary["classes"] = {name: float(oof[f"dice_{name}"].mean()) for name in several}
    write_atomically(run_folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    overlays = best_median_worst(oof, folds, competition, samples, thresholds)
    pictures, titles = [picture for _, picture in overlays], [title for title, _ in overlays]
    columns = len(several) or len(pictures)
    save_png(run_folder / "overlays.png", contact_sheet(pictures, titles, columns=columns, cell=480))
    write_oof_report(
        run_folder / "report.html",
        oof=oof,
        summary=_headline(summary),
        curves=[fold.folder / "curves.png" for fold in folds if (fold.folder / "curves.png").is_file()],
        overlays=overlays,
        thresholds=thresholds,
        notes=[*notes, *_explanations(summary)],
    )
    return summary


def _oof_table(table: pd.DataFrame, nested: np.ndarray, several: Sequence[str]) -> pd.DataFrame:
    """oof.csv, from the scores of each slide, (N,), or of several classes (N, K)."""
    own = {f"dice_{name}": nested[:, number] for number, name in enumerate(several)}
    dice = nested.mean(axis=1) if several else nested
    return table[["id", "fold", "organ", "source"]].assign(dice=dice, **own)[[*OOF_COLUMNS, *own]]


def summarise(
    table: pd.DataFrame, scores: np.ndarray, thresholds: dict[str, float], folds: list[FoldRun]
) -> dict[str, Any]:
    """The figures of a run as plain data."""
    names = folds[0].manifest.classes
    optimistic = apply_thresholds(table, thresholds, names if len(names) > 1 else ())
    return {
        "dice": float(scores.mean()),
        "interval": list(grouped_interval(scores, table["group"].tolist())),
        "images": len(table),
        "groups": int(table["group"].nunique()),
        "dice_at_half": float(table[0.5].mean()),
        "dice_thresholds_on_all_optimistic": float(optimistic.mean()),
        "weights_sha256": {fold.folder.name: file_sha256(fold.folder / "model.safetensors") for fold in folds},
        "settings": {fold.folder.name: fold.record["manifest"] for fold in folds},
        "folds": {
            str(fold.fold): {
                "dice": float(scores[(table["fold"] == fold.fold).to_numpy()].mean()),
                "best_step": fold.record["best_step"],
                "best_dice_optimistic": fold.record["best_dice_optimistic"],
                "last_dice": fold.record["dice"],
            }
            for fold in folds
        },
    }


def _interval_words(summary: dict[str, Any]) -> str:
    """The interval in words; a single group has none."""
    if summary["groups"] < 2:
        return "no interval: one group"
    low, high = summary["interval"]
    return f"95% {low:.4f} to {high:.4f} over {summary['groups']} groups"


def _class_words(summary: dict[str, Any]) -> str:
    """The Dice of each class in words."""
    return "Dice by class: " + ", ".join(f"{name} {dice:.4f}" for name, dice in summary["classes"].items())


def _headline(summary: dict[str, Any]) -> dict[str, str]:
    low, high = summary["interval"]
    return {
        "out-of-fold Dice": f"{summary['dice']:.4f}",
        "95% interval by group": f"{low:.3f} to {high:.3f}" if summary["groups"] > 1 else "none: one group",
        "images": str(summary["images"]),
        "groups": str(summary["groups"]),
        "folds": str(len(summary["folds"])),
    }


def _explanations(summary: dict[str, Any]) -> list[str]:
    """How the score was made, in words."""
    return [
        "Every slide was predicted by the fold that did not see its group, from the weights of the last step, averaged "
        "where the experiment averages them, through the same code as the kernel.",
        "Thresholds of each fold were chosen on the other folds. At the fixed threshold 0.5 the Dice is "
        f"{summary['dice_at_half']:.4f}; with thresholds chosen on all folds, which is optimistic, it would be "
        f"{summary['dice_thresholds_on_all_optimistic']:.4f}.",
        *([_class_words(summary) + "; that of an image is the mean over its classes."] if "classes" in summary else []),
        *(
            f"Fold {fold}: {values['dice']:.4f}. Best validation during training, on a part of the slides and "
            f"optimistic: {values['best_dice_optimistic']:.4f} at step {values['best_step']}."
            for fold, values in summary["folds"].items()
        ),
    ]


def best_median_worst(
    oof: pd.DataFrame,
    folds: list[FoldRun],
    competition: Competition,
    samples: dict[str, Sample],
    thresholds: dict[str, float],
) -> list[tuple[str, np.ndarray]]:
    """Overlays of the best, the median and the worst slide, each class in turn, as (title, uint8 HWC)."""
    ordered = oof.sort_values(["dice", "id"], ascending=False, ignore_index=True)
    places = dict.fromkeys([0, len(ordered) // 2, len(ordered) - 1])
    by_fold = {fold.fold: fold for fold in folds}
    pictures = []
    for name, place in zip(("best", "median", "worst"), places, strict=False):
        row = ordered.iloc[place]
        sample, fold = samples[row["id"]], by_fold[row["fold"]]
        classes = fold.manifest.classes
        cuts = look_up_thresholds(thresholds, sample.organ, sample.source, classes)
        prediction = predict_slide(fold, competition, sample, cuts)
        overlays = class_overlays(sample.image_path, competition.target(sample), prediction)
        for label, overlay in zip(classes, overlays, strict=True):
            words = f"{label}, Dice {row[f'dice_{label}']:.3f}" if len(classes) > 1 else f"Dice {row['dice']:.3f}"
            pictures.append((f"{name}: {sample.id}, {words}", overlay))
    return pictures
