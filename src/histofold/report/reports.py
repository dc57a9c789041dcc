"""The pages of an out-of-fold evaluation and of a tiled data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histofold.report.balance import plot_class_balance
from histofold.report.overlays import FALSE_RGB, MISSED_RGB, PREDICTION_RGB, TRUTH_RGB
from histofold.report.page import Block, Facts, Figure, Gallery, Legend, Section, Table, Text, write_page
from histofold.report.plots import plot_dice_by_group

_INDEX_COLUMNS = ("tile_id", "id", "fold", "mask_fraction", "tissue_fraction", "bin")


def write_oof_report(
    path: Path,
    *,
    oof: pd.DataFrame,
    summary: Mapping[str, Any],
    curves: Sequence[Path],
    overlays: Sequence[tuple[str, np.ndarray]],
    thresholds: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Write the report of an out-of-fold evaluation.

    Args:
        path: Where to, usually runs/E/report.html.
        oof: Columns id, fold, organ, source, dice; one row an image.
        summary: Headline label to number, text or (low, high); empty = computed from `oof`.
        curves: PNG files of the learning curves.
        overlays: (title, RGB uint8 image) pairs as `draw_overlay` makes them; titles say rank, id and Dice.
        thresholds: Key (default, organ, organ/source) to threshold, or to a mapping of such values.
        notes: What a reader must know to trust the numbers.
    """
    scored = oof["dice"].dropna()
    facts = summary or {"out-of-fold Dice": float(scored.mean()), "median": float(scored.median()), "images": len(oof)}
    worst_first = oof.sort_values("dice", kind="stable", na_position="first")
    columns = [name for name in ("id", "dice", "organ", "source", "fold") if name in oof]
    by_organ: list[Block] = [
        Figure(plot_dice_by_group(oof), "Each dot is one image; bars span the middle half, strokes mark the median."),
        _dice_table(oof, "organ"),
        _dice_table(oof, "fold"),
    ]
    sections = [
        Section("", [Facts(facts), *([Text(list(notes))] if notes else [])]),
        Section("Dice by organ and fold", by_organ),
        Section("Examples", [_overlay_legend(), Gallery([Figure(image, title) for title, image in overlays])]),
        Section("Learning curves", [Figure(curve, curve.parent.name, "Learning curves") for curve in curves]),
        Section("Thresholds", [_threshold_table(thresholds)]),
        Section("Every image, worst first", [Table(columns, worst_first[columns].values.tolist(), bars=("dice",))]),
    ]
    filled = {"Examples": bool(overlays), "Learning curves": bool(curves), "Thresholds": bool(thresholds)}
    shown = [section for section in sections if filled.get(section.title, True)]
    write_page(path, "Out-of-fold evaluation", "Every image scored by a model that never saw its group.", shown)


def write_dataset_report(
    path: Path,
    *,
    facts: Mapping[str, Any],
    index: pd.DataFrame | None = None,
    folds: pd.DataFrame | None = None,
    overlays: Sequence[tuple[str, np.ndarray]] = (),
    notices: Sequence[str] = (),
    explored: Sequence[Section] = (),
) -> None:
    """Write the report of a data set.

    Args:
        path: Where to, usually dataset_report.html.
        facts: Headline label to number or text.
        index: Columns of index.csv: tile_id, id, fold, mask_fraction, tissue_fraction, bin; None before tiles are cut.
        folds: Columns id, group, stratum, fold; None where there are none yet.
        overlays: (title, RGB uint8 image) pairs of sample tiles or slides.
        notices: What else deserves a look but is no fault.
        explored: Sections about the slides themselves, as `explore_sections` gives them.
    """
    known_index = pd.DataFrame(columns=_INDEX_COLUMNS) if index is None else index
    caption = f"{len(notices):,} things that deserve a look; none of them stops the work."
    notice_rows = [(number, notice) for number, notice in enumerate(notices, start=1)]
    statements: list[Text] = []
    tables: list[Block] = []
    if folds is not None:
        statements = _leak_statements(known_index, folds)
        tables = [_fold_table(index, folds), _stratum_table(folds)]
    tiles: list[Block] = []
    if len(known_index):
        tiles = [Figure(plot_class_balance(known_index), "", "Tiles per bin and fold, mask and tissue fractions")]
    samples: list[Block] = []
    if overlays:
        figures = [Figure(image, title) for title, image in overlays]
        samples = [Legend((("annotation", TRUTH_RGB),)), Gallery(figures)]
    sections = [
        Section("", [Facts(facts), *statements]),
        Section("Folds", tables),
        Section("Tiles", tiles),
        Section("Samples", samples),
        *explored,
        Section("Notices", [Table(("no.", "notice"), notice_rows, caption)] if notices else []),
    ]
    subtitle = "What its slides and labels look like, how they are parted, and what was noticed."
    write_page(path, "Data set", subtitle, [section for section in sections if section.blocks])


def _overlay_legend() -> Legend:
    """The colours of `draw_overlay`."""
    lines = (("truth", TRUTH_RGB), ("prediction", PREDICTION_RGB))
    return Legend((*lines, ("missed", MISSED_RGB), ("falsely found", FALSE_RGB)))


def _dice_table(oof: pd.DataFrame, column: str) -> Table:
    """Dice by a column; images without a score are counted apart."""
    rows = []
    for name, members in oof.groupby(column, dropna=False):
        dice = members["dice"].dropna()
        rows.append((name, len(dice), dice.mean(), dice.median(), dice.min(), dice.max(), len(members) - len(dice)))
    header = (column, "n", "mean", "median", "min", "max", "not scored")
    width = len(header) if any(row[-1] for row in rows) else len(header) - 1
    return Table(header[:width], [row[:width] for row in rows], f"Dice by {column}", bars=("mean",))


def _threshold_table(thresholds: Mapping[str, Any]) -> Table:
    """Thresholds by key; a key that holds several values gets several columns."""
    values = {key: value if isinstance(value, Mapping) else {"threshold": value} for key, value in thresholds.items()}
    columns = list(dict.fromkeys(name for value in values.values() for name in value))
    rows = [(key, *(value.get(name) for name in columns)) for key, value in values.items()]
    return Table(("for", *(name.replace("_", " ") for name in columns)), rows, decimals=3)


def _leak_statements(index: pd.DataFrame, folds: pd.DataFrame) -> list[Text]:
    """Say whether a group stands in two folds, and whether the tiles keep to folds.csv."""
    spread = folds.groupby("group")["fold"].nunique()
    split = [str(group) for group in spread.index[spread > 1]]
    known = index.assign(
        expected=index["id"].astype(str).map(dict(zip(folds["id"].astype(str), folds["fold"], strict=True)))
    )
    known = known[known["expected"].notna()]
    moved = int((known["fold"] != known["expected"]).sum())
    problems = []
    if split:
        problems.append(
            f"{len(split)} groups stand in more than one fold, so scores would leak: {', '.join(split[:20])}"
        )
    if moved:
        problems.append(f"{moved:,} tiles stand in another fold than their image in folds.csv.")
    if problems:
        return [Text(problems, tone="warn")]
    tiles = ", and every tile is in its image's fold" if len(index) else ""
    sentence = f"No leak between folds: none of the {len(spread):,} groups stands in two folds{tiles}."
    return [Text([sentence], tone="good")]


def _fold_table(index: pd.DataFrame | None, folds: pd.DataFrame) -> Table:
    """Images and groups of each fold, and its tiles once they are cut."""
    if index is None:
        counts = [(fold, len(members), members["group"].nunique()) for fold, members in folds.groupby("fold")]
        return Table(("fold", "images", "groups"), counts, "What each fold holds")
    rows = []
    for fold, members in folds.groupby("fold"):
        tiles = index[index["fold"] == fold]
        marked = int((tiles["mask_fraction"] > 0).sum())
        means = (tiles["mask_fraction"].mean(), tiles["tissue_fraction"].mean())
        rows.append((fold, len(members), members["group"].nunique(), len(tiles), marked, *means))
    header = ("fold", "images", "groups", "tiles", "tiles with mask", "mean mask fraction", "mean tissue fraction")
    return Table(header, rows, "What each fold holds")


def _stratum_table(folds: pd.DataFrame) -> Table:
    """Images of each stratum in each fold."""
    counts = pd.crosstab(folds["stratum"], folds["fold"])
    rows = [
        (stratum, *map(int, row), int(row.sum())) for stratum, row in zip(counts.index, counts.to_numpy(), strict=True)
    ]
    return Table(("stratum", *(f"fold {fold}" for fold in counts), "all"), rows, "Images by stratum")
