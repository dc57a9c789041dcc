"""What is wrong with masks: pixels and connected pieces by organ, and the gravest errors close up."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from histofold.core.metrics.errors import ERROR_KINDS, ObjectErrors, gravest_cases, object_errors
from histofold.core.objects.instances import Objects
from histofold.core.objects.morphology import mask_components
from histofold.core.rle.runs import class_runs
from histofold.core.rle.sets import without_runs
from histofold.imaging.slide import open_sample
from histofold.predict.image import predict_masks
from histofold.predict.stages import Stage
from histofold.report.blocks import Block, Figure, Gallery, Pictures, Table, Text
from histofold.report.graphs.objects import plot_object_counts
from histofold.report.object_errors import CLOSE_UP_SIDE, OUTLINE_LEGEND
from histofold.report.pictures.objects import close_up
from histofold.trust.masks import MaskEvaluation
from histofold.trust.scored import COUNTED_ERRORS

SLIDES_A_KIND = 3
"""Slides whose gravest error of a kind is shown: each of them is predicted once more."""
PREDICTED_SHARE, PREDICTED_SECONDS = 0.1, 60.0
"""That takes at most this share of the time that scoring all slides took, or so many seconds."""


def pixel_table(counts: pd.DataFrame, by: str) -> Table:
    """Precision and recall of all pixels of each part of the slides."""
    rows = []
    for name, part in [*counts.groupby(by), *_everything(counts, by)]:
        truth, predicted, hits = (int(part[f"{each}_px"].sum()) for each in ("truth", "predicted", "hit"))
        shares = _ratio(hits, predicted), _ratio(hits, truth), _ratio(predicted, truth)
        rows.append((name or "not named", part["id"].nunique(), *shares))
    header = (by, "images", "precision", "recall", "found pixels over true ones")
    return Table(header, rows, f"Pixels by {by}, all of them pooled", decimals=3, bars=("precision", "recall"))


def piece_table(counts: pd.DataFrame, by: str) -> Table:
    """Connected pieces of each part of the slides: true, found, matched, and errors of each kind."""
    rows = []
    for name, part in [*counts.groupby(by), *_everything(counts, by)]:
        sums = {key: int(part[key].sum()) for key in ("true", "found", "matches", *COUNTED_ERRORS)}
        shares = _ratio(sums["matches"], sums["found"]), _ratio(sums["matches"], sums["true"])
        rows.append((name or "not named", *sums.values(), *shares))
    header = (by, "true", "found", "matches", *(ERROR_KINDS[kind] for kind in COUNTED_ERRORS), "precision", "recall")
    caption = (
        f"Connected pieces by {by}: a match has an IoU of 0.5 or more; precision and recall are those of matches. A "
        "true piece that is neither matched, missed nor split lies in a merged one, a found one in a split one."
    )
    return Table(header, rows, caption, decimals=3, bars=("precision", "recall"))


def _everything(counts: pd.DataFrame, by: str) -> list[tuple[str, pd.DataFrame]]:
    """A last row of all slides, where there are several parts."""
    return [("all", counts)] if counts[by].nunique() > 1 else []


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def error_blocks(evaluation: MaskEvaluation) -> list[Block]:
    """Tables of pixels and pieces by organ and, of several, by class; counts of each image; close-ups."""
    counts = evaluation.counts
    columns = ["organ", *(["class"] if len(evaluation.class_names) > 1 else [])]
    cleaning = evaluation.summary.get("cleaning")  # volumes are cleaned as wholes, not slice by slice
    blocks: list[Block] = [Text([counted_words(cleaning)])] if cleaning else []
    blocks += [pixel_table(counts, by) for by in columns]
    if "true" not in counts:
        return blocks
    blocks += [piece_table(counts, by) for by in columns]
    drawn = counts.groupby(["id", "source"], as_index=False)[["true", "found"]].sum()
    drawn = drawn.rename(columns={"found": "predicted"})
    blocks.append(Figure(plot_object_counts(drawn), "Connected pieces of each image.", "Pieces found and true pieces"))
    pictures = worst_pieces(evaluation)
    if pictures:
        blocks += [Text([_GALLERY_WORDS]), OUTLINE_LEGEND, Gallery.of(pictures)]
    return blocks


def counted_words(cleaning: Mapping[str, Any]) -> str:
    """Of which masks pixels and pieces are counted, from `cleaning` of summary.json."""
    own, chosen = (", ".join(f"{name} {value:g}" for name, value in cleaning[key].items()) for key in ("own", "chosen"))
    words = f"Counted and shown here are masks with the run's own cleaning ({own})"
    ships = f"; what ships is cleaned with {chosen}" if chosen else ""
    return f"{words}, each slide at the threshold of its score{ships}."


_GALLERY_WORDS = "The gravest errors, by the area of what is wrong; the pieces concerned are outlined broadly."


def worst_pieces(evaluation: MaskEvaluation) -> Pictures:
    """Close-ups of the gravest errors of each kind, of as many slides, as (title, uint8 HWC)."""
    names, predicted = evaluation.class_names, _Predicted(evaluation)
    pictures = []
    for kind, sample_id, class_name in chosen_errors(evaluation):
        sample = evaluation.samples[sample_id]
        errors, truth, found = predicted.pieces(sample_id, names.index(class_name))
        cases = gravest_cases(errors, truth, found, kind)
        if not cases:
            continue  # on another machine than the one that counted
        with open_sample(sample) as slide:
            picture = close_up(slide, truth, found, (cases[0].true, cases[0].found), CLOSE_UP_SIDE)
        of_class = f", {class_name}" if len(names) > 1 else ""
        pictures.append((f"{ERROR_KINDS[kind]}: {sample_id}{of_class}, {int(cases[0].size):,} px", picture))
    return pictures


def chosen_errors(evaluation: MaskEvaluation) -> list[tuple[str, str, str]]:
    """Kind, slide and class of the gravest errors, kind by kind: those whose slides there is time to predict again."""
    counts, slides = evaluation.counts, evaluation.slides
    left = max(PREDICTED_SECONDS, PREDICTED_SHARE * sum(slide.seconds for slide in slides.values()))
    worst = {
        kind: counts[counts[kind] > 0].sort_values([f"{kind}_px", "id"], ascending=[False, True])
        for kind in COUNTED_ERRORS
    }
    chosen, predicted = [], set[str]()
    for rank, kind in itertools.product(range(SLIDES_A_KIND), COUNTED_ERRORS):
        for row in worst[kind].iloc[rank : rank + 1].to_dict("records"):
            seconds = 0.0 if row["id"] in predicted else slides[row["id"]].seconds
            if seconds <= left:
                left -= seconds
                predicted.add(row["id"])
                chosen.append((kind, row["id"], row["class"]))
    return sorted(chosen, key=lambda each: COUNTED_ERRORS.index(each[0]))


class _Predicted:
    """Masks of slides as their folds predict them, each made once."""

    def __init__(self, evaluation: MaskEvaluation) -> None:
        self._evaluation = evaluation
        self._folds = {key: fold for fold in evaluation.folds for key in fold.record.dice_by_id}
        self._ensemble = cache(self._load)
        self.pieces = cache(self._pieces)

    def _load(self, fold: int) -> list[Stage]:
        found = next(each for each in self._evaluation.folds if each.fold == fold)
        # Of the cleaning that errors were counted with, so that those shown are those of the tables.
        own: dict[str, Any] = self._evaluation.summary["cleaning"]["own"]
        return replace(found, manifest=replace(found.manifest, **own)).ensemble()

    def _pieces(self, sample_id: str, class_place: int) -> tuple[ObjectErrors, Objects, Objects]:
        """Errors, true pieces and found ones of a slide's class."""
        evaluation = self._evaluation
        place = int(np.flatnonzero(evaluation.oof["id"] == sample_id)[0])
        cuts = tuple(np.atleast_1d(evaluation.cuts[place]).tolist())
        sample, truth = evaluation.samples[sample_id], evaluation.truth
        fold = self._folds[sample_id]
        forward = fold.forward(truth, [sample])
        (masks,) = predict_masks(self._ensemble(fold.fold), sample, [cuts], truth.never_empty, forward)
        found = mask_components(class_runs(without_runs(masks, truth.ignored(sample)))[class_place])
        true = mask_components(class_runs(truth.target(sample))[class_place])
        return object_errors(found, true), true, found
