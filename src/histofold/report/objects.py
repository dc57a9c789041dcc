"""The page of an out-of-fold evaluation of objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from histofold.core.metrics.ranked import PooledHits
from histofold.data.thumbnails import fitting_shape, small_owners
from histofold.imaging.slide import open_sample
from histofold.report.blocks import Block, Browser, Facts, Figure, Gallery, Legend, Pictures, Section, Table, Text
from histofold.report.graphs.objects import plot_object_counts, plot_ranking
from histofold.report.graphs.run import plot_scores
from histofold.report.masks import curve_files, interval_text, ranked_places
from histofold.report.object_errors import error_blocks
from histofold.report.page import write_page
from histofold.report.pictures.objects import UNSURE_RGB, truth_and_found
from histofold.report.pictures.overlays import FALSE_RGB, contact_sheet, save_png
from histofold.report.provenance import leak_section, timing_section
from histofold.report.slides import BROWSER_WORDS, LAYER_LEGENDS, ShownClass, ShownSlide, slide_browser
from histofold.schema.choices import CHOSEN_SETTINGS
from histofold.schema.objects import ObjectConfig
from histofold.trust.objects.evaluate import ObjectEvaluation, object_fold_words
from histofold.trust.objects.scores import IMAGE_METRICS
from histofold.trust.scored import MAP_SIDE

PANEL_SIDE = 640
"""Longer side of truth and of prediction, side by side."""
SHEET_SIDE = 720
"""Width of both in overlays.png."""
METRIC_NAMES = {
    "ap50": "AP50",
    "ap75": "AP75",
    "aji": "AJI",
    "pq": "PQ",
    "dq": "DQ",
    "sq": "SQ",
    "object_f1": "object F1",
    "object_dice": "object Dice",
    "predicted": "found",
    "true": "true",
}
_LEGEND = Legend((("not a true object", FALSE_RGB), ("unsure: does not count", UNSURE_RGB)))


def write_object_report(evaluation: ObjectEvaluation) -> None:
    """Write overlays.png and report.html of an evaluated run of objects."""
    examples = ranked_examples(evaluation)
    pictures, titles = [picture for _, picture in examples], [title for title, _ in examples]
    save_png(evaluation.run / "overlays.png", contact_sheet(pictures, titles, columns=1, cell=SHEET_SIDE))
    curves = [Figure(path, path.parent.name, "Learning curves") for path in curve_files(evaluation)]
    sections = [
        Section("", [Facts(_headline(evaluation)), Text([*evaluation.notes, *_explanations(evaluation)])]),
        Section("Precision and recall", _ranking_blocks(evaluation)),
        Section(f"{evaluation.metric} by source, fold and group", _part_blocks(evaluation)),
        Section("Errors by kind", error_blocks(evaluation)),
        Section("Examples", [_EXAMPLES, _LEGEND, Gallery.of(examples)]),
        Section("Every image", [BROWSER_WORDS, LAYER_LEGENDS[0], _browser(evaluation)]),
        leak_section(evaluation),
        timing_section(evaluation, {}),
        *([Section("Learning curves", curves)] if curves else []),
        Section("Settings", [_settings_table(evaluation)]),
        Section("Every image, worst first", [_image_table(evaluation)]),
    ]
    subtitle = "Every image scored by a model that never saw its group."
    write_page(evaluation.run / "report.html", "Out-of-fold evaluation", subtitle, sections)


_EXAMPLES = Text(["Truth at the left, what was found at the right; an object has the same colour in both."])


def ranked_examples(evaluation: ObjectEvaluation) -> Pictures:
    """Images from the best to the worst, truth beside what was found, as (title, uint8 HWC)."""
    ordered = evaluation.oof.sort_values(["ap", "id"], ascending=False, ignore_index=True)
    places = {image.sample.id: place for place, image in enumerate(evaluation.images)}
    pictures = []
    for place, name in ranked_places(len(ordered)):
        row = ordered.iloc[place]
        image, found = evaluation.images[places[row["id"]]], evaluation.shown[places[row["id"]]].objects
        with open_sample(image.sample) as slide:
            picture = truth_and_found(slide, image.truth, found, image.unsure, PANEL_SIDE)
        words = f"{_score_words(evaluation, row)}, {len(found)} found of {len(image.truth)}"
        pictures.append((f"{name}: {row['id']}, {words}", picture))
    return pictures


def _browser(evaluation: ObjectEvaluation) -> Browser:
    return slide_browser(evaluation, evaluation.oof["ap"].to_numpy(float), partial(shown_images, evaluation))


def shown_images(evaluation: ObjectEvaluation, places: Iterable[int]) -> Iterator[ShownSlide]:
    """Images by their places in oof.csv, all true objects as one mask, and all that show."""
    for place in places:
        image, found, row = evaluation.images[place], evaluation.shown[place].objects, evaluation.oof.iloc[place]
        small_hw = fitting_shape(image.truth.shape_hw, MAP_SIDE)
        truth_HW, found_HW = (small_owners(objects, small_hw) >= 0 for objects in (image.truth, found))
        words = f"{_score_words(evaluation, row)}, {len(found)} found of {len(image.truth)}"
        yield ShownSlide(image.sample, float(row["ap"]), [ShownClass(words, truth_HW, found_HW, None)])


def _score_words(evaluation: ObjectEvaluation, row: pd.Series) -> str:
    """The score of an image."""
    return "no true object" if np.isnan(row["ap"]) else f"{evaluation.metric} {row['ap']:.3f}, PQ {row['pq']:.3f}"


def _headline(evaluation: ObjectEvaluation) -> dict[str, str]:
    summary = evaluation.summary
    means = summary["images_mean"]
    return {
        f"out-of-fold {evaluation.metric}": f"{evaluation.score:.4f}",
        "95% interval by group": interval_text(summary["interval"]),
        "with the run's own settings": f"{summary['score_of_own_settings']:.4f}",
        "of a perfect answer": f"{summary['perfect']:.4f}",
        **{name: f"{value:.4f}" for name, value in summary["further"].items()},
        **{METRIC_NAMES[name]: f"{means[name]:.4f}" for name in ("aji", "pq", "object_f1")},
        "images": str(summary["images"]),
        "groups": str(summary["groups"]),
        "folds": str(len(summary["folds"])),
    }


def _explanations(evaluation: ObjectEvaluation) -> list[str]:
    """How the score was made, in words."""
    summary, metric = evaluation.summary, evaluation.metric
    optimistic = summary["score_chosen_on_all_optimistic"]
    return [
        "Every image was predicted by the fold that did not see its group, through the same code as the kernel; the "
        f"detections of all images are then one ranking, of which {metric} is the area under precision and recall.",
        "Settings of each fold were chosen on the other folds, and differ from the run's own only where they gain "
        f"beyond chance. With the run's own the {metric} is {summary['score_of_own_settings']:.4f}; with those chosen "
        f"on all folds, which is optimistic, it would be {optimistic:.4f}.",
        "AJI, PQ, object F1 and object Dice know no scores: they are means over images of the objects that show, of at "
        f"least the score of the best F1 on the other folds ({summary['shown_score']:g} on all).",
        *(f"F{object_fold_words(metric, fold, values)[1:]}." for fold, values in summary["folds"].items()),
    ]


def _ranking_blocks(evaluation: ObjectEvaluation) -> list[Block]:
    folds = [_pool(evaluation, [image.fold == fold for image in evaluation.images]) for fold in evaluation.nested]
    counted = _pool(evaluation, [True] * len(evaluation.images))
    everything = PooledHits(evaluation.hits, replace(evaluation.rule, max_detections=None))
    ranking = plot_ranking(counted, everything, folds, evaluation.summary["shown_score"], evaluation.metric)
    caption = "All images in blue, each fold in grey; beside them the scores of all hits and false alarms."
    counts = "Objects that show, in each image and over the true ones."
    return [
        Figure(ranking, caption, "Precision, recall and scores"),
        Figure(plot_object_counts(evaluation.oof), counts, "Objects found and true objects"),
    ]


def _pool(evaluation: ObjectEvaluation, chosen: Sequence[bool]) -> PooledHits:
    """Some of the images as one ranking."""
    hits = [each for each, is_chosen in zip(evaluation.hits, chosen, strict=True) if is_chosen]
    return PooledHits(hits, evaluation.rule)


def _part_blocks(evaluation: ObjectEvaluation) -> list[Block]:
    """The score of each source and fold, and of every image."""
    caption = "Each dot is one image, its detections ranked alone; bars span the middle half, strokes mark the median."
    by_source = plot_scores(evaluation.oof, "ap", evaluation.metric, "source")
    columns = ["source", "fold"]
    if len({image.group for image in evaluation.images}) < len(evaluation.images):
        columns.append("group")
    return [Figure(by_source, caption), *(_part_table(evaluation, column) for column in columns)]


def _part_table(evaluation: ObjectEvaluation, column: str) -> Table:
    """The score of the images of each source, fold or group pooled, and means of the other metrics."""
    oof = evaluation.oof.assign(group=[image.group for image in evaluation.images])
    rows = []
    for name, part in oof.groupby(column):
        score = _pool(evaluation, (oof[column] == name).tolist()).ap()
        means = [float(part[metric].mean()) for metric in IMAGE_METRICS]
        counts = int(part["predicted"].sum()), int(part["true"].sum())
        rows.append((name if name != "" else "not named", len(part), score, *means, *counts))
    header = (column, "n", evaluation.metric, *(METRIC_NAMES[name] for name in (*IMAGE_METRICS, "predicted", "true")))
    caption = f"By {column}: {evaluation.metric} of its images pooled, and means over them"
    return Table(header, rows, caption, bars=(evaluation.metric,))


def _settings_table(evaluation: ObjectEvaluation) -> Table:
    """What was chosen for each fold, and what ships."""
    own = evaluation.folds[0].manifest.objects or ObjectConfig()
    folds = evaluation.summary["folds"]
    rows: list[tuple[Any, ...]] = []
    for name in CHOSEN_SETTINGS:
        value = getattr(own, name)
        chosen = (values["chosen"].get(name, value) for values in folds.values())
        rows.append((name, value, *chosen, evaluation.summary["chosen"].get(name, value)))
    shown = (values["shown_score"] for values in folds.values())
    rows.append(("objects show from", None, *shown, evaluation.summary["shown_score"]))
    header = ("setting", "the run's own", *(f"for fold {fold}" for fold in folds), "ships")
    return Table(header, rows, "What was chosen, for each fold by the others", decimals=3)


def _image_table(evaluation: ObjectEvaluation) -> Table:
    """Every image, the worst first; those without a true object last."""
    oof: pd.DataFrame = evaluation.oof.sort_values("ap", kind="stable", na_position="last")
    columns = ["id", "ap", *METRIC_NAMES, "source", "fold"]
    header = [evaluation.metric if name == "ap" else METRIC_NAMES.get(name, name) for name in columns]
    return Table(header, oof[columns].values.tolist(), bars=(evaluation.metric, "PQ"))
