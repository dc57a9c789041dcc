"""The pictures and the page of an out-of-fold evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histofold.predict.image import predict_masks
from histofold.report.graphs.run import plot_scores
from histofold.report.page import Block, Facts, Figure, Gallery, Legend, Pictures, Section, Table, Text, write_page
from histofold.report.pictures.overlays import (
    FALSE_RGB,
    MISSED_RGB,
    PREDICTION_RGB,
    TRUTH_RGB,
    contact_sheet,
    save_png,
)
from histofold.report.pictures.slides import class_overlays
from histofold.schema.manifest import look_up_thresholds
from histofold.trust.evaluation import Evaluation
from histofold.trust.masks import MaskEvaluation, class_words, cleaning_words, fold_words

_OVERLAY_LEGEND = Legend(
    (("truth", TRUTH_RGB), ("prediction", PREDICTION_RGB), ("missed", MISSED_RGB), ("falsely found", FALSE_RGB))
)
"""The colours of `draw_overlay`."""
RANKS = {"best": 0.0, "worst": 1.0, "median": 0.5, "upper quarter": 0.25, "lower quarter": 0.75}
"""The slides that are shown, by their place among all from the best to the worst; of few the first names go first."""


def write_mask_report(evaluation: MaskEvaluation) -> None:
    """Write overlays.png and report.html of an evaluated run."""
    run, summary = evaluation.run, evaluation.summary
    overlays = ranked_overlays(evaluation)
    pictures, titles = [picture for _, picture in overlays], [title for title, _ in overlays]
    columns = len(summary["classes"]) if "classes" in summary else len(pictures)
    save_png(run / "overlays.png", contact_sheet(pictures, titles, columns=columns, cell=400))
    write_oof_report(
        run / "report.html",
        oof=evaluation.oof,
        summary=_headline(summary),
        curves=curve_files(evaluation),
        overlays=overlays,
        thresholds=evaluation.thresholds,
        notes=[*evaluation.notes, *_explanations(summary)],
        shift=summary.get("shift"),
    )


def ranked_places(count: int) -> list[tuple[int, str]]:
    """The places of `RANKS` among so many slides, in order, each once, with its name."""
    names: dict[int, str] = {}
    for name, share in RANKS.items():
        names.setdefault(round(share * (count - 1)), name)
    return sorted(names.items())


def curve_files(evaluation: Evaluation) -> list[Path]:
    """The learning curves of the folds that have them drawn."""
    return [path for fold in evaluation.folds if (path := fold.folder / "curves.png").is_file()]


def ranked_overlays(evaluation: MaskEvaluation) -> Pictures:
    """Overlays of slides from the best to the worst, each class in turn, as (title, uint8 HWC)."""
    ordered = evaluation.oof.sort_values(["dice", "id"], ascending=False, ignore_index=True)
    by_fold = {fold.fold: fold for fold in evaluation.folds}
    pictures = []
    for place, name in ranked_places(len(ordered)):
        row = ordered.iloc[place]
        sample, fold = evaluation.samples[row["id"]], by_fold[row["fold"]]
        classes = fold.manifest.classes
        cuts = look_up_thresholds(evaluation.thresholds, sample.organ, sample.source, classes)
        (prediction,) = predict_masks(fold.ensemble(), sample, [cuts], evaluation.truth.never_empty)
        overlays = class_overlays(sample, evaluation.truth.target(sample), prediction)
        for label, overlay, cut in zip(classes, overlays, cuts if isinstance(cuts, tuple) else (cuts,), strict=True):
            words = f"{label}, Dice {row[f'dice_{label}']:.3f}" if len(classes) > 1 else f"Dice {row['dice']:.3f}"
            pictures.append((f"{name}: {sample.id}, {words} at {cut:g}", overlay))
    return pictures


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval as a headline shows it."""
    return "none: one group" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _headline(summary: Mapping[str, Any]) -> dict[str, str]:
    shift = summary.get("shift")
    shifted = {"shift score": f"{shift['dice']:.4f}", "its interval": interval_text(shift["interval"])} if shift else {}
    return {
        "out-of-fold Dice": f"{summary['dice']:.4f}",
        "95% interval by group": interval_text(summary["interval"]),
        **shifted,
        "Dice at threshold 0.5": f"{summary['dice_at_half']:.4f}",
        "Dice of a mask of everything": f"{summary['dice_of_everything']:.4f}",
        "images": str(summary["images"]),
        "groups": str(summary["groups"]),
        "folds": str(len(summary["folds"])),
    }


def _explanations(summary: Mapping[str, Any]) -> list[str]:
    """How the score was made, in words."""
    return [
        "Every slide was predicted by the fold that did not see its group, from the weights of the last step, averaged "
        "where the experiment averages them, through the same code as the kernel.",
        "Thresholds of each fold were chosen on the other folds. At the fixed threshold 0.5 the Dice is "
        f"{summary['dice_at_half']:.4f}; with thresholds chosen on all folds, which is optimistic, it would be "
        f"{summary['dice_thresholds_on_all_optimistic']:.4f}.",
        *(f"{words}." for words in cleaning_words(summary)),
        *([class_words(summary) + "; that of an image is the mean over its classes."] if "classes" in summary else []),
        *(f"F{fold_words(fold, values)[1:]}.{_best_words(values)}" for fold, values in summary["folds"].items()),
    ]


def _best_words(values: Mapping[str, Any]) -> str:
    """The best validation of a fold, where it is another than the last one and so would have to be chosen."""
    if values["best_step"] == values["last_step"]:
        return ""
    best = f"{values['best_dice_optimistic']:.4f} at step {values['best_step']}"
    return f" The best validation during training, maybe of fewer slides, is not used and would be optimistic: {best}."


def write_oof_report(
    path: Path,
    *,
    oof: pd.DataFrame,
    summary: Mapping[str, Any],
    curves: Sequence[Path],
    overlays: Pictures,
    thresholds: Mapping[str, float],
    notes: Sequence[str],
    shift: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of an out-of-fold evaluation.

    Args:
        path: Where to, usually runs/E/report.html.
        oof: Columns id, fold, organ, source, dice; one row an image.
        summary: Headline label to number, text or (low, high).
        curves: PNG files of the learning curves.
        overlays: As `draw_overlay` makes them; titles say rank, id and Dice.
        thresholds: Key (default, organ, organ/source) to threshold.
        notes: What a reader must know to trust the numbers.
        shift: The figures of shifted slides, as summary.json has them; None where they were not scored.
    """
    worst_first = oof.sort_values("dice", kind="stable", na_position="first")
    columns = [name for name in ("id", "dice", "organ", "source", "fold") if name in oof]
    by_organ: list[Block] = [
        Figure(plot_scores(oof), "Each dot is one image; bars span the middle half, strokes mark the median."),
        _dice_table(oof, "organ"),
        _dice_table(oof, "fold"),
    ]
    sections = [
        Section("", [Facts(summary), *([Text(list(notes))] if notes else [])]),
        Section("Dice by organ and fold", by_organ),
        *([_shift_section(oof, shift)] if shift else []),
        Section("Examples", [_OVERLAY_LEGEND, Gallery.of(overlays)]),
        Section("Learning curves", [Figure(curve, curve.parent.name, "Learning curves") for curve in curves]),
        Section("Thresholds", [Table(("for", "threshold"), list(thresholds.items()), decimals=3)]),
        Section("Every image, worst first", [Table(columns, worst_first[columns].values.tolist(), bars=("dice",))]),
    ]
    filled = {"Examples": bool(overlays), "Learning curves": bool(curves), "Thresholds": bool(thresholds)}
    shown = [section for section in sections if filled.get(section.title, True)]
    write_page(path, "Out-of-fold evaluation", "Every image scored by a model that never saw its group.", shown)


def _shift_section(oof: pd.DataFrame, shift: Mapping[str, Any]) -> Section:
    """Dice of slides as they are and as the hidden set would show them."""
    columns = {"as they are": {"dice": oof["dice"].mean(), "organs": oof.groupby("organ")["dice"].mean()}}
    columns |= shift["stains"]
    rows = [
        (organ or "not named", *(values["organs"][organ] for values in columns.values()))
        for organ in sorted(oof["organ"].unique())
    ]
    mean = ("all", *(values["dice"] for values in columns.values()))
    words = (
        "Every slide was predicted once more in other stains, with the detail and the thickness of its organ's hidden "
        f"slides where these are known, and cut at thresholds that were chosen on {shift['thresholds']} slides."
    )
    return Section("Shifted slides", [Text([words]), Table(("organ", *columns), [*rows, mean], bars=tuple(columns))])


def _dice_table(oof: pd.DataFrame, column: str) -> Table:
    """Dice by a column; images without a score are counted apart."""
    rows = []
    for name, members in oof.groupby(column, dropna=False):
        dice = members["dice"].dropna()
        rows.append(
            (
                name if name != "" else "not named",
                len(dice),
                dice.mean(),
                dice.median(),
                dice.min(),
                dice.max(),
                len(members) - len(dice),
            )
        )
    header = (column, "n", "mean", "median", "min", "max", "not scored")
    width = len(header) if any(row[-1] for row in rows) else len(header) - 1
    return Table(header[:width], [row[:width] for row in rows], f"Dice by {column}", bars=("mean",))
