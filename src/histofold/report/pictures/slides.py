"""Pictures that several verbs make."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from histofold.competitions.base import Competition, ObjectCompetition
from histofold.core.faults import ImageError
from histofold.core.regions import split_runs
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.data.cleaning import clean_blank_labels
from histofold.data.contents import true_objects
from histofold.data.explore.label_fit import other_order
from histofold.data.explore.notices import Notice
from histofold.data.thumbnails import fitting_shape, read_small, small_mask
from histofold.data.tiles.files import middle_channels, read_tile
from histofold.data.tiles.masks import IGNORED_BIT, any_class
from histofold.imaging.slide import open_sample
from histofold.report.pictures.objects import draw_labels, draw_truth
from histofold.report.pictures.overlays import contact_sheet, draw_overlay
from histofold.schema.sample import Sample

PICTURE_SIDE = 900
SMALL_SIDE = 420
PAIR_SIDE = 340
PICTURES_A_KIND = 3
"""Most pictures of notices of one kind."""
PICTURES_AN_ORGAN, LEAST_PICTURES = 3, 9
"""Slides of each organ; of few organs more of each."""
TILES_A_BIN = 4


def sample_tiles(dataset: Path, index: pd.DataFrame, level: int = 1) -> list[tuple[str, np.ndarray]]:
    """Some tiles of every bin with their masks outlined, of as many slides as there are, as (title, uint8 HWC).

    Soft masks are cut at the level, 1 to 255.
    """
    pictures = []
    shown: Counter[str] = Counter()
    for name, part in index.groupby("bin", sort=False):
        for row in _of_most_slides(part, TILES_A_BIN, shown):
            stored_HWC, mask_HW = read_tile(dataset, row["tile_id"], level=level)
            image_HWC = middle_channels(stored_HWC)
            if mask_HW.dtype == np.uint16:
                overlay = draw_labels(image_HWC, mask_HW)
            else:
                overlay = draw_overlay(image_HWC, mask_HW % IGNORED_BIT > 0, None)
            pictures.append((f"{row['tile_id']} · {name} ({row['mask_fraction']:.0%})", overlay))
    return pictures


def _of_most_slides(tiles: pd.DataFrame, count: int, shown: Counter[str]) -> list[dict[str, Any]]:
    """At most so many rows of tiles, of the slides that were shown least; the same ones at every call."""
    shuffled = tiles.sample(frac=1, random_state=0)
    turns = shuffled["id"].map(lambda key: shown[key]) + shuffled.groupby("id").cumcount()
    rows = shuffled.iloc[np.argsort(turns.to_numpy(), kind="stable")[:count]].to_dict("records")
    shown.update(row["id"] for row in rows)
    return rows


def slide_overlay(sample: Sample, truth: Runs | None, prediction: Runs | None, side: int = PICTURE_SIDE) -> np.ndarray:
    """A slide at picture size with truth and prediction outlined, uint8 HWC; read and decoded by region."""
    return _outlined(sample, [(truth, prediction)], side)[0]


def class_overlays(
    sample: Sample, truth: Masks, prediction: Masks | None, side: int = PICTURE_SIDE
) -> list[np.ndarray]:
    """As `slide_overlay`, a picture for each class."""
    of_classes = class_runs(truth)
    predicted = (None,) * len(of_classes) if prediction is None else class_runs(prediction)
    return _outlined(sample, list(zip(of_classes, predicted, strict=True)), side)


def _outlined(sample: Sample, pairs: Sequence[tuple[Runs | None, Runs | None]], side: int) -> list[np.ndarray]:
    """A slide, read once, with each pair of truth and prediction outlined."""
    with open_sample(sample) as slide:
        small_hw = fitting_shape(slide.shape_hw, side)
        image_HWC = read_small(slide, small_hw)
    masks = [[None if runs is None else small_mask(runs, small_hw) for runs in pair] for pair in pairs]
    return [draw_overlay(image_HWC, truth_HW, prediction_HW, max_side=side) for truth_HW, prediction_HW in masks]


def sample_slides(competition: Competition, samples: Sequence[Sample]) -> list[tuple[str, np.ndarray]]:
    """Some slides of every organ with their labels outlined, of objects each in a colour, as (title, uint8 HWC)."""
    by_organ = defaultdict(list)
    for sample in samples:
        by_organ[sample.organ].append(sample)
    pictures = []
    count = max(PICTURES_AN_ORGAN, LEAST_PICTURES // max(1, len(by_organ)))
    for organ, members in sorted(by_organ.items()):
        places = np.linspace(0, len(members) - 1, min(count, len(members))).astype(int)
        for sample in (members[place] for place in places):
            try:
                overlay = _labelled(competition, sample)
            except ImageError:
                continue  # a fault, which the audit names
            pictures.append((" · ".join(filter(None, (sample.id, organ, sample.source))), overlay))
    return pictures


def _labelled(competition: Competition, sample: Sample) -> np.ndarray:
    """A slide with its labels; raises ImageError where it cannot be read."""
    objects = true_objects(competition, sample)
    if objects is None:
        return slide_overlay(sample, any_class(competition.target(sample)), None, SMALL_SIDE)
    unsure = cast(ObjectCompetition, competition).unsure(sample)
    with open_sample(sample) as slide:
        return draw_truth(slide, objects, unsure, SMALL_SIDE)


def notice_pictures(
    competition: Competition, samples: Sequence[Sample], notices: Sequence[Notice]
) -> list[tuple[str, np.ndarray]]:
    """Pictures of the first notices of each kind: the labels as they are beside what they might be.

    Args:
        competition: The adapter that gave the samples.
        samples: All samples.
        notices: Of these samples.

    Returns:
        (title, uint8 HWC) pairs, those of a kind together.
    """
    by_id = {sample.id: sample for sample in samples}
    shown: Counter[str] = Counter()
    pictures = []
    for notice in sorted(notices, key=lambda notice: notice.kind):
        if shown[notice.kind] < PICTURES_A_KIND and set(notice.ids) <= set(by_id):
            shown[notice.kind] += 1
            views = _notice_views(competition, by_id, notice)
            title = f"{', '.join(notice.ids)}: {notice.kind}"
            if len(views) > 1:
                pictures.append((title, contact_sheet(list(views.values()), list(views), columns=1, cell=PAIR_SIDE)))
            pictures += [(title, view) for view in views.values() if len(views) == 1]
    return pictures


def _notice_views(competition: Competition, by_id: Mapping[str, Sample], notice: Notice) -> dict[str, np.ndarray]:
    """The pictures of one notice by their titles; none where an image cannot be read."""
    sample = by_id[notice.ids[0]]
    runs = any_class(competition.target(sample))
    try:
        if len(notice.ids) > 1:
            others = [(key, any_class(competition.target(by_id[key]))) for key in notice.ids]
            return {key: slide_overlay(by_id[key], other, None, SMALL_SIDE) for key, other in others}
        views = {"as it is": slide_overlay(sample, runs, None, SMALL_SIDE)}
        mended = _MENDED.get(notice.kind)
        if mended is not None:
            title, change = mended
            views[title] = slide_overlay(sample, change(sample, runs, notice), None, SMALL_SIDE)
    except ImageError:
        return {}
    return views


def _cleaned(sample: Sample, runs: Runs, notice: Notice) -> Runs:
    with open_sample(sample) as slide:
        return clean_blank_labels(slide, runs)


def _moved(sample: Sample, runs: Runs, notice: Notice) -> Runs:
    """The labels moved as the notice says; what leaves the frame is lost."""
    down, across = notice.shift_px or (0, 0)
    along, over = (down, across) if runs.order == "F" else (across, down)
    pieces, length = split_runs(runs), runs.line_length
    line, first = np.divmod(pieces.starts, length)
    start = np.clip(first + along, 0, length)
    end = np.clip(first + pieces.lengths + along, 0, length)
    line = line + over
    kept = (end > start) & (line >= 0) & (line < runs.shape_hw[0] * runs.shape_hw[1] // length)
    return Runs((line * length + start)[kept], (end - start)[kept], runs.shape_hw, runs.order)


def _reordered(sample: Sample, runs: Runs, notice: Notice) -> Runs:
    return other_order(runs)


_MENDED: dict[str, tuple[str, Callable[[Sample, Runs, Notice], Runs]]] = {
    "blank labelled": ("without labels on glass", _cleaned),
    "mask shift": ("moved", _moved),
    "order of the runs": ("read in the other order", _reordered),
}
"""How the labels of a notice look once they are mended, by its kind."""
