"""The exploratory part of a data set's page, and what was noticed in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from histofold.data.explore.comparison import RANKED, rank_slides
from histofold.data.explore.folder import Exploration
from histofold.data.explore.slides import SlideFacts
from histofold.report.blocks import Block, Figure, Gallery, Legend, Pictures, Section, Table, Text
from histofold.report.graphs.dataset import facts_table, plot_colours, plot_slides
from histofold.report.graphs.objects import plot_object_sizes
from histofold.report.pictures.overlays import TRUTH_RGB

_RANKED_ROWS = 25
_LEGEND = Legend((("labelled", TRUTH_RGB),))
_AREA_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def explore_sections(
    exploration: Exploration, folds: pd.DataFrame | None, samples: Pictures, noticed: Pictures
) -> list[Section]:
    """The sections of an exploration; parts that there is nothing to show of are left out.

    Args:
        exploration: What was seen.
        folds: Columns id and fold; None where there are no folds.
        samples: Slides with their labels outlined.
        noticed: Pictures of notices.
    """
    facts = list(exploration.facts)
    if not facts:
        return []
    table = facts_table(facts)
    sections = [Section("Slides", [*_organ_tables(table), Figure(plot_slides(facts), _SLIDES_CAPTION, "Slides")])]
    if of_objects := [fact for fact in facts if fact.object_areas_px is not None]:
        sections.append(
            Section("Objects", [_object_table(of_objects), Figure(plot_object_sizes(of_objects), "", "Objects")])
        )
    if any(np.isfinite(fact.outside_lab).all() for fact in facts):
        sections.append(Section("Colours", [Figure(plot_colours(facts), _COLOURS_CAPTION, "Colours of the slides")]))
    if folds is not None:
        sections.append(Section("Organs and sources by fold", _fold_blocks(table, folds)))
    if samples:
        colours = Text(["Each object has a colour; grey ones do not count."]) if of_objects else _LEGEND
        sections.append(Section("Slides by organ", [colours, Gallery.of(samples)]))
    sections.append(Section("Groups", _group_blocks(table, exploration)))
    sections += _notice_sections(exploration, noticed)
    ranked = rank_slides(facts)
    if ranked:
        sections.append(Section("Slides by how unusual they are", [_rank_table(ranked)]))
    return sections


_SLIDES_CAPTION = "Each dot is one slide, strokes mark the medians; among sizes a larger dot stands for more slides."
_COLOURS_CAPTION = (
    "Mean colour of each slide's tissue, inside (filled) and outside (hollow) the labels. Sources that lie apart "
    "differ in stain or scanner: what was learned on one need not hold on the other."
)


def _organ_tables(table: pd.DataFrame) -> list[Block]:
    """What each organ holds, and all of them: its images, and its labels."""
    parts = [(str(organ), members) for organ, members in table.groupby("organ")]
    if len(parts) > 1:
        parts.append(("all", table))
    images, labels = [], []
    for name, members in parts:
        counts = len(members), members["group"].nunique()
        scale = _range(members["pixel_size_um"], 3)
        sides = _range(members["height"], 0), _range(members["width"], 0)
        images.append((name, *counts, ", ".join(sorted(members["source"].unique())), scale, *sides))
        share, objects = _range(members["mask_fraction"], 3), _range(members["objects"], 0)
        labels.append((name, share, objects, _range(members["object_area_um2"], 0)))
    header = ("organ", "images", "groups", "sources", "pixel size, um", "height, px", "width, px")
    caption = "Images of each organ: medians, and in brackets the range where they differ"
    label_header = ("organ", "labelled share", "objects in an image", "median area of an object, um²")
    return [Table(header, images, caption), Table(label_header, labels, "Labels of each organ, likewise")]


def _object_table(facts: Sequence[SlideFacts]) -> Table:
    """How many objects each source holds, and how large they are."""
    parts: dict[str, list[SlideFacts]] = {}
    for fact in sorted(facts, key=lambda fact: fact.sample.source):
        parts.setdefault(fact.sample.source or "not named", []).append(fact)
    if len(parts) > 1:
        parts["all"] = list(facts)
    rows = []
    for name, members in parts.items():
        areas = np.concatenate([np.asarray(fact.object_areas_px) for fact in members])
        counts = pd.Series([fact.objects for fact in members])
        sizes = [float(np.quantile(areas, share)) if len(areas) else None for share in _AREA_SHARES]
        rows.append((name, len(members), int((counts == 0).sum()), len(areas), _range(counts, 0), *sizes))
    shares = (f"area {share:.0%}, px" for share in _AREA_SHARES)
    header = ("source", "images", "empty", "objects", "in an image", *shares)
    return Table(
        header, rows, "Objects of each source: how many an image holds, and quantiles of their areas", decimals=0
    )


def _range(values: pd.Series, decimals: int) -> str | None:
    """Median (least to greatest), or the one value that all have."""
    known = values.dropna()
    if known.empty:
        return None
    low, middle, high = (f"{value:,.{decimals}f}" for value in (known.min(), known.median(), known.max()))
    return middle if low == high else f"{middle} ({low} – {high})"


def _fold_blocks(table: pd.DataFrame, folds: pd.DataFrame) -> list[Block]:
    """Images of each organ, and of each source where there are several, in each fold."""
    fold_of = dict(zip(folds["id"].astype(str), folds["fold"], strict=True))
    known = table.assign(fold=table["id"].map(fold_of)).dropna(subset=["fold"])
    known["fold"] = known["fold"].astype(int)
    blocks: list[Block] = []
    for column in ("organ", "source"):
        if column == "source" and known["source"].nunique() < 2:
            continue
        counts = pd.crosstab(known[column], known["fold"])
        shares = known.pivot_table(index=column, columns="fold", values="mask_fraction", aggfunc="mean")
        rows = [
            (
                name,
                *(
                    f"{counts.at[name, fold]} ({shares.at[name, fold]:.3f})" if counts.at[name, fold] else "0"
                    for fold in counts
                ),
                int(counts.loc[name].sum()),
            )
            for name in counts.index
        ]
        header = (column, *(f"fold {fold}" for fold in counts), "all")
        blocks.append(Table(header, rows, f"Images by {column}, and the mean labelled share of them"))
    return blocks


def _group_blocks(table: pd.DataFrame, exploration: Exploration) -> list[Block]:
    """How images spread over groups, and which near-duplicates join them."""
    sizes = table["group"].value_counts()
    largest = ", ".join(f"{name} ({count})" for name, count in sizes.head(8).items() if count > 1)
    words = f"{len(table):,} images in {len(sizes):,} groups; {int((sizes == 1).sum()):,} groups hold one image."
    blocks: list[Block] = [Text([words, *([f"The largest: {largest}."] if largest else [])])]
    clusters = Counter(exploration.clusters.values())
    if clusters:
        joined = f"{len(exploration.clusters)} images are near-duplicates, in {len(clusters)} clusters"
        blocks.append(Text([f"{joined}; a cluster shares a fold."]))
    return blocks


def _notice_sections(exploration: Exploration, noticed: Pictures) -> list[Section]:
    """What was noticed: counts of each kind, pictures of some, and all in words."""
    notices = list(exploration.notices)
    if not notices:
        return []
    counts = Counter(notice.kind for notice in notices)
    tally = Table(("kind", "notices"), list(counts.items()), f"{len(notices):,} notices; none of them stops the work.")
    blocks: list[Block] = [tally]
    if noticed:
        blocks += [_LEGEND, Gallery.of(noticed)]
    rows = [(", ".join(notice.ids), notice.kind, notice.text) for notice in notices]
    blocks.append(Table(("id", "kind", "what was seen"), rows, "All of them"))
    return [Section("Noticed in the slides", blocks)]


def _rank_table(ranked: Sequence[tuple[SlideFacts, str, float]]) -> Table:
    rows = [
        (fact.sample.id, fact.sample.organ, RANKED[name], float(getattr(fact, name)), distance)
        for fact, name, distance in ranked[:_RANKED_ROWS]
    ]
    caption = (
        "The slides that lie furthest from the median of their organ, in robust standard deviations of the fact named; "
        "a list to look through, not one of mistakes."
    )
    return Table(("id", "organ", "furthest in", "value", "deviations"), rows, caption, decimals=3)
