"""Graphs of scored objects: precision and recall, scores of hits and false alarms, counts against the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from histofold.core.metrics.ranked import PooledHits
from histofold.data.explore.slides import SlideFacts
from histofold.report.graphs import (
    INK,
    LABEL,
    MUTED,
    PALETTE,
    dot_handle,
    finish_figure,
    new_figure,
    say_empty,
    style_axes,
)

_HIT, _FALSE = PALETTE[0], PALETTE[1]
_BINS = 20
_LABEL_ROOM = 0.6  # of the axes' width, which a label to the right of a point needs


def plot_ranking(
    counted: PooledHits, everything: PooledHits, folds: Sequence[PooledHits], shown_score: float, metric: str
) -> bytes:
    """Draw precision against recall, of all images and of each fold, and the scores of hits and false alarms.

    Args:
        counted: The detections of all images that the host counts.
        everything: All detections: where the host counts no more of each image, their curve goes on dashed.
        folds: Of the images of each fold.
        shown_score: Where objects begin to show; marked in both graphs.
        metric: The word for the area.

    Returns:
        The PNG's bytes.
    """
    figure = new_figure(3.9)
    curve, scores = figure.subplots(1, 2)
    style_axes(curve, "Precision and recall")
    style_axes(scores, "Scores of detections")
    for each in folds:
        curve.plot(*each.curve(), color=MUTED, lw=0.8, alpha=0.5)
    _draw_curve(curve, counted, everything, shown_score, metric)
    _draw_scores(scores, everything, shown_score)
    return finish_figure(figure)


def _draw_curve(axes: Axes, counted: PooledHits, everything: PooledHits, shown_score: float, metric: str) -> None:
    """The curve of all images, the area under it, and the point where objects begin to show."""
    recall, precision = counted.curve()
    if not len(recall):
        say_empty(axes, "no detection, or no true object")
        return
    axes.fill_between(recall, np.maximum.accumulate(precision[::-1])[::-1], color=_HIT, alpha=0.12, lw=0)
    axes.plot(recall, precision, color=_HIT, lw=1.8)
    axes.annotate(f"{metric} {counted.ap():.4f}", (0.04, 0.05), **LABEL)
    all_recall, all_precision = everything.curve()
    if len(all_recall) > len(recall):
        axes.plot(all_recall, all_precision, color=_HIT, lw=1.2, ls=(0, (3, 2)))
    if count := int((everything.scores >= shown_score).sum()):
        point = all_recall[count - 1], all_precision[count - 1]
        axes.plot(*point, "o", ms=6, color=INK)
        place: dict[str, Any] = {"xytext": (8, 8)}
        if point[0] > _LABEL_ROOM:  # below the curve, which falls to the right
            place = {"xytext": (-8, -8), "ha": "right", "va": "top"}
        axes.annotate(f"from a score of {shown_score:g}", point, textcoords="offset points", **place, **LABEL)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")


def _draw_scores(axes: Axes, pool: PooledHits, shown_score: float) -> None:
    """Stacked histogram of the scores."""
    if not len(pool.scores):
        say_empty(axes, "no detection")
        return
    parts = [pool.scores[pool.hits], pool.scores[~pool.hits]]
    axes.hist(parts, bins=_BINS, range=(0, 1), stacked=True, color=[_HIT, _FALSE], ec="white", lw=0.5)
    axes.axvline(shown_score, ymax=1 / 1.3, color=INK, lw=1, ls=(0, (4, 2)))
    axes.set(xlim=(0, 1), ylim=(0, 1.3 * axes.get_ylim()[1]), xlabel="score", ylabel="detections")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    handles = [dot_handle(f"hits ({len(parts[0]):,})", _HIT), dot_handle(f"false alarms ({len(parts[1]):,})", _FALSE)]
    axes.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, loc="upper right")


def plot_object_counts(oof: pd.DataFrame) -> bytes:
    """Draw how many objects were found in each image against how many there are, and their difference by image.

    Args:
        oof: Columns source, predicted, true.

    Returns:
        The PNG's bytes.
    """
    figure = new_figure(3.9)
    counts, shares = figure.subplots(1, 2)
    style_axes(counts, "Objects of every image")
    style_axes(shares, "Found, for each true object")
    sources = sorted(oof["source"].astype(str).unique())
    for place, source in enumerate(sources):
        part = oof[oof["source"].astype(str) == source]
        look = {"s": 18, "color": PALETTE[place % len(PALETTE)], "alpha": 0.7, "lw": 0}
        counts.scatter(part["true"], part["predicted"], label=source or "not named", **look)
    top = 1.06 * max(1, int(oof[["true", "predicted"]].to_numpy().max(initial=1)))
    counts.plot([0, top], [0, top], color=MUTED, lw=0.9, ls=(0, (4, 2)))
    counts.set(xlim=(0, top), ylim=(0, top), xlabel="true objects", ylabel="objects found")
    if len(sources) > 1:
        counts.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    known = oof[oof["true"] > 0]
    if len(known):
        ratio = (known["predicted"] / known["true"]).clip(upper=3)
        shares.hist(ratio, bins=24, range=(0, 3), color=_HIT, ec="white", lw=0.5)
        shares.axvline(1, color=INK, lw=1, ls=(0, (4, 2)))
        shares.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        shares.set(xlim=(0, 3), xlabel="objects found over true ones (3: 3 and more)", ylabel="images")
    else:
        say_empty(shares, "no true object")
    return finish_figure(figure)


def plot_object_sizes(facts: Sequence[SlideFacts]) -> bytes:
    """Draw how large labelled objects are, and how many an image holds, by source.

    Args:
        facts: Of images whose labels are of single objects.

    Returns:
        The PNG's bytes.
    """
    figure = new_figure(3.9)
    areas, counts = figure.subplots(1, 2)
    style_axes(areas, "Areas of objects")
    style_axes(counts, "Objects in an image")
    sources = sorted({fact.sample.source for fact in facts})
    parts = [[fact for fact in facts if fact.sample.source == source] for source in sources]
    of_source = [np.concatenate([np.asarray(fact.object_areas_px) for fact in part]) for part in parts]
    colours = [PALETTE[place % len(PALETTE)] for place in range(len(sources))]
    look: dict[str, Any] = {"stacked": True, "color": colours, "ec": "white", "lw": 0.5}
    everything = np.concatenate(of_source)
    if len(everything):
        low, high = math.floor(math.log10(everything.min())), math.ceil(math.log10(everything.max() + 1))
        areas.hist(of_source, bins=np.logspace(low, high, 12 * (high - low) + 1), **look)
        areas.set(xscale="log", xlabel="pixels of the image", ylabel="objects")
        areas.tick_params(which="minor", length=0)
    else:
        say_empty(areas, "no object")
    most = max(fact.objects for fact in facts)
    counts.hist(
        [[fact.objects for fact in part] for part in parts], bins=min(24, most + 1), range=(0, most + 1), **look
    )
    counts.set(xlabel="objects", ylabel="images")
    for axes in (areas, counts):
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if len(sources) > 1:
        handles = [dot_handle(name or "not named", colour) for name, colour in zip(sources, colours, strict=True)]
        counts.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    return finish_figure(figure)
