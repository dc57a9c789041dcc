"""The pictures and the page of an out-of-fold evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histofold.report.blocks import Block, Browser, Facts, Figure, Gallery, Section, Table, Text, Viewer
from histofold.report.graphs.run import plot_scores
from histofold.report.graphs.thresholds import plot_thresholds
from histofold.report.mask_errors import error_blocks
from histofold.report.page import write_page
from histofold.report.pictures.overlays import contact_sheet, draw_overlay, save_png
from histofold.report.provenance import leak_section, timing_section
from histofold.report.slides import (
    BROWSER_WORDS,
    LAYER_LEGENDS,
    ShownSlide,
    read_picture,
    shown_slides,
    slide_browser,
    slide_viewers,
)
from histofold.trust.breakdown import part_table, share_bin, share_bins, size_bin, size_bins
from histofold.trust.evaluation import Evaluation
from histofold.trust.masks import MaskEvaluation, class_words, cleaning_words

RANKS = {"best": 0.0, "worst": 1.0, "median": 0.5, "upper quarter": 0.25, "lower quarter": 0.75}
"""The slides that are shown, by their place among all from the best to the worst; of few the first names go first."""
_SHEET_CELL = 400


def write_mask_report(evaluation: MaskEvaluation) -> None:
    """Write overlays.png, report.html and the pictures beside it of an evaluated run."""
    run, summary = evaluation.run, evaluation.summary
    examples = ranked_slides(evaluation)
    pictures = [(name, shown, read_picture(shown.sample)) for name, shown in examples]
    save_png(run / "overlays.png", _overlay_sheet(pictures))
    viewers: list[Figure | Viewer] = [
        viewer for name, shown, picture_HWC in pictures for viewer in slide_viewers(shown, picture_HWC, f"{name}: ")
    ]
    curves = [Figure(path, path.parent.name, "Learning curves") for path in curve_files(evaluation)]
    thresholds = Table(("for", "threshold"), list(evaluation.thresholds.items()), "What ships", decimals=3)
    slides = list(evaluation.slides.values())
    graph, known = plot_thresholds(evaluation.table, evaluation.thresholds, slides)
    graph_words = _CURVE_WORDS + (_RELIABILITY_WORDS if known else ".")
    sections = [
        Section("", [Facts(_headline(summary)), Text([*evaluation.notes, *_explanations(evaluation)])]),
        *([_volume_section(summary["volumes"])] if "volumes" in summary else []),
        Section("Dice by organ, source, size and fold", _part_blocks(evaluation)),
        *([_shift_section(evaluation.oof, summary["shift"])] if "shift" in summary else []),
        Section("Thresholds", [Figure(graph, graph_words, "Mean Dice over the threshold"), thresholds]),
        Section("Pixels and pieces", error_blocks(evaluation)),
        Section("Examples", [*LAYER_LEGENDS, Gallery(viewers)]),
        Section("Every slide", [BROWSER_WORDS, *LAYER_LEGENDS, _browser(evaluation)]),
        Section("Patients", _group_blocks(evaluation)),
        leak_section(evaluation),
        timing_section(evaluation, evaluation.slides),
        *([Section("Learning curves", curves)] if curves else []),
        Section("Scores, worst first", [image_table(evaluation)]),
    ]
    subtitle = "Every image scored by a model that never saw its group."
    write_page(run / "report.html", "Out-of-fold evaluation", subtitle, sections)


_CURVE_WORDS = "The mean Dice at each threshold, of all slides broad, of each fold grey; dots mark what ships"
_RELIABILITY_WORDS = (
    " (left); of the pixels of each probability the share that is true, before masks are cleaned (right): on the "
    "dashed line it is right."
)


def _browser(evaluation: MaskEvaluation) -> Browser:
    return slide_browser(evaluation, evaluation.oof["dice"].to_numpy(float), partial(shown_slides, evaluation))


def ranked_places(count: int) -> list[tuple[int, str]]:
    """The places of `RANKS` among so many slides, in order, each once, with its name."""
    names: dict[int, str] = {}
    for name, share in RANKS.items():
        names.setdefault(round(share * (count - 1)), name)
    return sorted(names.items())


def curve_files(evaluation: Evaluation) -> list[Path]:
    """The learning curves of the folds that have them drawn."""
    return [path for fold in evaluation.folds if (path := fold.folder / "curves.png").is_file()]


def ranked_slides(evaluation: MaskEvaluation) -> list[tuple[str, ShownSlide]]:
    """Slides from the best to the worst, with the names of their ranks."""
    order = evaluation.oof.reset_index(drop=True).sort_values(["dice", "id"], ascending=False).index.tolist()
    ranks = ranked_places(len(order))
    shown = shown_slides(evaluation, [order[place] for place, _ in ranks])
    return [(name, slide) for (_, name), slide in zip(ranks, shown, strict=True)]


def _overlay_sheet(pictures: Sequence[tuple[str, ShownSlide, np.ndarray]]) -> np.ndarray:
    """overlays.png: of several classes a row a slide, else all slides in one row."""
    overlays, titles = [], []
    for name, shown, picture_HWC in pictures:
        for each in shown.classes:
            overlays.append(draw_overlay(picture_HWC, each.truth, each.mask))
            titles.append(f"{name}: {shown.sample.id}, {each.words}")
    classes = len(pictures[0][1].classes)
    return contact_sheet(overlays, titles, columns=classes if classes > 1 else len(overlays), cell=_SHEET_CELL)


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval as a headline shows it."""
    return "none: one group" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _headline(summary: Mapping[str, Any]) -> dict[str, str]:
    shift = summary.get("shift")
    shifted = {"shift score": f"{shift['dice']:.4f}", "its interval": interval_text(shift["interval"])} if shift else {}
    interval = {"95% interval by group": interval_text(summary["interval"])}
    score = {"out-of-fold Dice": f"{summary['dice']:.4f}", **interval}
    if "volumes" in summary:  # the host's score comes first, and it is what the interval is of
        at_half = {"surface Dice at threshold 0.5": f"{summary['surface_dice_at_half']:.4f}"}
        score = {"out-of-fold surface Dice": f"{summary['surface_dice']:.4f}", **interval, **at_half}
        score["Dice of slices"] = f"{summary['dice']:.4f}"
    return {
        **score,
        **shifted,
        "Dice at threshold 0.5": f"{summary['dice_at_half']:.4f}",
        "Dice of a mask of everything": f"{summary['dice_of_everything']:.4f}",
        "Dice of an empty mask": f"{summary['dice_of_nothing']:.4f}",
        "images": str(summary["images"]),
        "groups": str(summary["groups"]),
        "folds": str(len(summary["folds"])),
    }


_OWN_CLEANING_WORDS = (
    "Dice is that of the cleaning which the other folds chose; pixels, pieces and pictures are of masks with the run's "
    "own."
)


def _explanations(evaluation: MaskEvaluation) -> list[str]:
    """How the score was made, in words."""
    summary = evaluation.summary
    dice, by_surface = summary["dice"], ""
    if "volumes" in summary:
        by_surface = ", by the surface Dice of their volumes; all else is plain Dice of slices"
    return [
        "Every slide was predicted by the fold that did not see its group, from the weights of the last step, averaged "
        "where the experiment averages them, through the same code as the kernel.",
        f"Thresholds of each fold were chosen on the other folds{by_surface}. At the fixed threshold 0.5 the Dice is "
        f"{summary['dice_at_half']:.4f}; with thresholds chosen on all folds, which is optimistic, it would be "
        f"{summary['dice_thresholds_on_all_optimistic']:.4f}.",
        *(f"{words}." for words in cleaning_words(summary)),
        *([_OWN_CLEANING_WORDS] if abs(summary.get("cleaning", {}).get("dice_of_own", dice) - dice) > 1e-9 else []),
        *([class_words(summary) + "; that of an image is the mean over its classes."] if "classes" in summary else []),
        *(
            f"F{line[1:]}.{_best_words(values)}"
            for line, values in zip(evaluation.fold_lines(), summary["folds"].values(), strict=True)
        ),
    ]


def _best_words(values: Mapping[str, Any]) -> str:
    """The best validation of a fold, where it is another than the last one and so would have to be chosen."""
    if values["best_step"] == values["last_step"]:
        return ""
    best = f"{values['best_dice_optimistic']:.4f} at step {values['best_step']}"
    return f" The best validation during training, maybe of fewer slides, is not used and would be optimistic: {best}."


_DOTS_WORDS = "Each dot is one image; bars span the middle half, strokes mark the median."


def _part_blocks(evaluation: MaskEvaluation) -> list[Block]:
    """The Dice of each organ, source, bin of size and of true share, and fold."""
    return [
        Figure(plot_scores(evaluation.oof), _DOTS_WORDS, "Dice of every image by organ"),
        *part_tables(evaluation.oof, evaluation.table["group"].tolist(), evaluation.counts),
    ]


def part_tables(oof: pd.DataFrame, groups: Sequence[str], counts: pd.DataFrame) -> list[Table]:
    """Tables of Dice by organ, source, longer side, share of the true mask, and fold.

    Args:
        oof: oof.csv.
        groups: Group of each of its rows.
        counts: `MaskEvaluation.counts`.
    """
    of_slides = counts.groupby("id").agg({"size_px": "first", "truth_px": "sum", "pixels": "sum"}).loc[oof["id"]]
    sizes = [size_bin((side, 1)) for side in of_slides["size_px"]]
    shares = [share_bin(share) for share in (of_slides["truth_px"] / of_slides["pixels"]).clip(upper=1).fillna(0)]
    parts: dict[str, tuple[Sequence[Any], Sequence[str]]] = {
        "organ": (oof["organ"].tolist(), ()),
        "source": (oof["source"].tolist(), ()),
        "longer side": (sizes, size_bins()),
        "share of the true mask": (shares, share_bins()),
        "fold": (oof["fold"].astype(str).tolist(), [str(fold) for fold in sorted(oof["fold"].unique())]),
    }
    return [
        _part_table(part_table(oof["dice"].tolist(), groups, of_each, order), name)
        for name, (of_each, order) in parts.items()
    ]


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


def _volume_section(scores: Mapping[str, float]) -> Section:
    """The host's score of each volume, the worst first."""
    rows = sorted(scores.items(), key=lambda row: row[1])
    return Section("Volumes", [Table(("volume", "surface Dice"), rows, bars=("surface Dice",))])


def _part_table(parts: pd.DataFrame, name: str) -> Table:
    """A table of `part_table`; parts without a name are named."""
    rows = [(part if part != "" else "not named", *rest) for part, *rest in parts.itertuples(index=False, name=None)]
    header = (name, "images", "groups", "mean", "95% from", "to", "median", "min", "max")
    return Table(header, rows, f"Dice by {name}", decimals=3, bars=("mean",))


def _group_blocks(evaluation: MaskEvaluation) -> list[Block]:
    """The Dice and the pieces of each group, the worst first; where each image is one, there is nothing to add."""
    table = evaluation.table[["id", "group"]].assign(dice=evaluation.oof["dice"].to_numpy())
    counts = evaluation.counts.groupby("group")
    if table["group"].nunique() == len(table):
        return [Text(["Each image counts as a patient of its own: the tables of images hold them."])]
    rows = []
    for group, part in table.groupby("group"):
        own = counts.get_group(group)
        pieces = (int(own["true"].sum()), int(own["found"].sum())) if "true" in own else ()
        rows.append((group, len(part), part["dice"].mean(), part["dice"].min(), part["dice"].max(), *pieces))
    header = ("group", "images", "mean Dice", "min", "max", "true pieces", "found pieces")
    return [Table(header[: len(rows[0])], sorted(rows, key=lambda row: row[2]), bars=("mean Dice",), decimals=3)]


def image_table(evaluation: MaskEvaluation) -> Table:
    """Every image, the worst first, with its pieces where they are objects."""
    columns = {"id": "id", "dice": "Dice", "organ": "organ", "source": "source", "fold": "fold"}
    table = evaluation.oof
    if "true" in evaluation.counts:
        pieces = evaluation.counts.groupby("id")[["true", "found"]].sum()
        table = table.join(pieces, on="id")
        columns |= {"true": "true pieces", "found": "found pieces"}
    worst_first = table.sort_values("dice", kind="stable")[list(columns)]
    return Table(list(columns.values()), list(worst_first.itertuples(index=False, name=None)), bars=("Dice",))
