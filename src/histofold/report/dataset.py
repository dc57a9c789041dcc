"""The page of a data set: what its slides and labels look like, how they are parted, and what was noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from histofold.data.build import BuiltDataset
from histofold.data.check import CheckedFolder
from histofold.data.leaks import patients_in_words
from histofold.data.pseudo import pseudo_folder
from histofold.report.blocks import Block, Facts, Figure, Gallery, Legend, Pictures, Section, Table, Text
from histofold.report.explore import explore_sections
from histofold.report.graphs.dataset import plot_class_balance
from histofold.report.page import write_page
from histofold.report.pictures.overlays import TRUTH_RGB
from histofold.report.pictures.slides import notice_pictures, sample_slides, sample_tiles

if TYPE_CHECKING:  # it brings torch, which a check must do without
    from histofold.trust.pseudo_labels import PseudoDataset

REPORT_NAME = "dataset_report.html"
_INDEX_COLUMNS = ("tile_id", "id", "fold", "mask_fraction", "tissue_fraction", "bin")


def write_build_report(built: BuiltDataset) -> Path:
    """Write the report of a dataset that was just built; gives its place."""
    folds, index, fractions = built.folds, built.index, built.fractions
    pictures = notice_pictures(built.competition, built.samples, built.exploration.notices)
    samples = sample_slides(built.competition, built.samples)
    facts = {
        "images": len(built.samples),
        "groups": int(folds["group"].nunique()),
        "folds": int(folds.loc[folds["fold"] >= 0, "fold"].nunique()),
        "tiles": len(index),
        "tiles with mask": f"{(index['mask_fraction'] > 0).mean():.0%}",
        "mean mask fraction of an image": f"{sum(fractions.values()) / len(fractions):.3f}",
    }
    path = built.folder / REPORT_NAME
    write_dataset_report(
        path,
        facts=facts,
        index=index,
        folds=folds,
        overlays=sample_tiles(built.folder, index),
        notices=built.leaks,
        patients=built.patients,
        explored=explore_sections(built.exploration, folds, samples, pictures),
    )
    return path


def write_pseudo_report(built: PseudoDataset) -> Path:
    """Write the report of a dataset of predicted labels; gives its place."""
    folder, record, index = built.folder, built.record, built.index
    first = int(min(index["label_fold"], default=0))
    facts = {
        "images": len(built.folds),
        "label sets": len(record.makers),
        "tiles": len(index),
        "labels of": record.run,
    }
    if record.labels.min_certainty:
        facts[f"tiles left out, of a mean certainty below {record.labels.min_certainty:g}"] = built.unsure
    notices = [
        f"the labels for fold {fold} were predicted by weights {maker.weights_sha256[:16]}, trained on "
        f"{len(maker.trained_on)} images; only training of fold {fold} reads them"
        for fold, maker in record.makers.items()
    ]
    path = folder / REPORT_NAME
    write_dataset_report(
        path,
        facts=facts,
        index=index,
        folds=built.folds,
        overlays=sample_tiles(pseudo_folder(folder, first), index[index["label_fold"] == first], level=128),
        notices=notices,
        patients=patients_in_words(dict(zip(built.folds["id"], built.folds["group"], strict=True))),
    )
    return path


def write_check_report(path: Path, checked: CheckedFolder) -> None:
    """Write the report of a folder that was checked and of which nothing is built."""
    exploration, samples = checked.exploration, checked.samples
    has_images = any(fact.fingerprint is not None for fact in exploration.facts)
    seen = {fact.sample.id for fact in exploration.facts}
    shown = [sample for sample in samples if sample.id in seen] if has_images else []
    pictures = notice_pictures(checked.competition, shown, exploration.notices)
    facts = {
        "images": len(seen),
        "groups": len({sample.group or sample.id for sample in samples}),
        "organs": len({sample.organ for sample in samples}),
        "notices": checked.notices,
    }
    explored = explore_sections(exploration, checked.folds, sample_slides(checked.competition, shown), pictures)
    write_dataset_report(
        path,
        facts=facts,
        folds=checked.folds,
        notices=checked.leaks,
        patients=checked.patients,
        explored=explored,
    )


def write_dataset_report(
    path: Path,
    *,
    facts: Mapping[str, Any],
    index: pd.DataFrame | None = None,
    folds: pd.DataFrame | None = None,
    overlays: Pictures = (),
    notices: Sequence[str] = (),
    patients: str = "",
    explored: Sequence[Section] = (),
) -> None:
    """Write the report of a data set.

    Args:
        path: Where to, usually dataset_report.html.
        facts: Headline label to number or text.
        index: Columns of index.csv: tile_id, id, fold, mask_fraction, tissue_fraction, bin; None before tiles are cut.
        folds: Columns id, group, stratum, fold; None where there are none yet.
        overlays: Sample tiles or slides.
        notices: What else deserves a look but is no fault.
        patients: What is not known of patients, by `patients_in_words`: no badge then claims that nothing leaks.
        explored: Sections about the slides themselves, as `explore_sections` gives them.
    """
    known_index = pd.DataFrame(columns=_INDEX_COLUMNS) if index is None else index
    caption = f"{len(notices):,} things that deserve a look; none of them stops the work."
    notice_rows = [(number, notice) for number, notice in enumerate(notices, start=1)]
    statements = [Text([f"{patients[:1].upper()}{patients[1:]}."], tone="warn")] if patients else []
    tables: list[Block] = []
    if folds is not None:
        statements = _leak_statements(known_index, folds, patients)
        tables = [_fold_table(index, folds), _stratum_table(folds)]
    tiles: list[Block] = []
    if len(known_index):
        tiles = [Figure(plot_class_balance(known_index), "", "Tiles per bin and fold, mask and tissue fractions")]
    samples: list[Block] = []
    if overlays:
        samples = [Legend((("annotation", TRUTH_RGB),)), Gallery.of(overlays)]
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


def _leak_statements(index: pd.DataFrame, folds: pd.DataFrame, patients: str) -> list[Text]:
    """Say whether a group stands in two folds, and whether the tiles keep to folds.csv; and what is not known."""
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
    if patients:
        sentence = f"None of the {len(spread):,} groups stands in two folds{tiles}; but {patients}."
        return [
            Text([sentence, "Where a patient has several images, scores leak: name patients and build again."], "warn")
        ]
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
