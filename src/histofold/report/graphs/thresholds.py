"""Graphs of where probabilities are cut: Dice over the threshold, and how often they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from histofold.report.graphs import (
    INK,
    LABEL,
    MUTED,
    PALETTE,
    dot_handle,
    finish_figure,
    new_figure,
    style_axes,
)
from histofold.trust.scored import PROBABILITY_CUTS, ScoredSlide
from histofold.trust.thresholds import THRESHOLD_GRID

_LEAST_PIXELS = 100  # of a bin: the share of fewer is chance


def plot_thresholds(
    table: pd.DataFrame, thresholds: Mapping[str, float], slides: Sequence[ScoredSlide]
) -> tuple[bytes, bool]:
    """Draw mean Dice over the threshold, and beside it the share of true pixels over the probability where it is known.

    Args:
        table: Columns fold, organ, and one of Dice for each threshold of the grid.
        thresholds: Those that ship; `default` is marked, and that of each organ that has its own.
        slides: The slides, for their pixels.

    Returns:
        The PNG's bytes, and whether probabilities are known.
    """
    bins = reliability_bins(slides)
    known = bool((bins[0] >= _LEAST_PIXELS).any())
    figure = new_figure(3.9)
    curves, *others = figure.subplots(1, 1 + known, squeeze=False)[0]
    style_axes(curves, "Dice over the threshold")
    _draw_curves(curves, table, thresholds)
    for axes in others:
        style_axes(axes, "Are probabilities right?")
        _draw_reliability(axes, *bins)
    return finish_figure(figure), known


def _draw_curves(axes: Axes, table: pd.DataFrame, thresholds: Mapping[str, float]) -> None:
    """All slides broad, each fold grey, each organ with a threshold of its own in a colour; chosen ones are dots."""
    grid = list(THRESHOLD_GRID)
    for _, part in table.groupby("fold"):
        axes.plot(grid, part[grid].mean(), color=MUTED, lw=0.8, alpha=0.5)
    parts = {"all": (table, thresholds["default"])}
    parts |= {organ: (part, thresholds[organ]) for organ, part in table.groupby("organ") if organ in thresholds}
    if len(parts) == 2:
        del parts[next(reversed(parts))]  # the only organ is all
    handles = []
    for place, (name, (part, chosen)) in enumerate(parts.items()):
        colour, means = PALETTE[place % len(PALETTE)], part[grid].mean()
        axes.plot(grid, means, color=colour, lw=2.2 if place == 0 else 1.2)
        axes.plot(chosen, means[chosen], "o", ms=6, color=colour)
        handles.append(dot_handle(f"{name}: {chosen:g}", colour))
    axes.legend(handles=handles, frameon=False, fontsize=8, labelcolor=INK, loc="lower center", ncols=2)
    axes.set(xlim=(0, 1), xlabel="threshold", ylabel="mean Dice")


def reliability_bins(slides: Sequence[ScoredSlide]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and true ones of them, whose probability lies in each bin between 0, `PROBABILITY_CUTS` and 1.

    Returns:
        (pixels, true), each int64 (number of cuts + 1,), of all classes and all slides whose probabilities are known.
    """
    pixels_P, true_P = (np.zeros(len(PROBABILITY_CUTS) + 1, np.int64) for _ in range(2))
    for slide in slides:
        for each in slide.classes:
            if each.raw_px:
                pixels_P -= np.diff([slide.counted_px, *each.raw_px, 0])
                true_P -= np.diff([each.truth_px, *each.raw_hit_px, 0])
    return pixels_P, true_P


def _draw_reliability(axes: Axes, pixels_P: np.ndarray, true_P: np.ndarray) -> None:
    """The share of true pixels in each bin of probabilities, and how many pixels lie there."""
    edges = np.array([0, *PROBABILITY_CUTS, 1])
    middles, known_P = (edges[:-1] + edges[1:]) / 2, pixels_P >= _LEAST_PIXELS
    shares = pixels_P / pixels_P.sum()
    axes.bar(middles, shares, width=0.04, color=PALETTE[5], alpha=0.45, lw=0)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.9, ls=(0, (4, 2)))
    axes.plot(middles[known_P], true_P[known_P] / pixels_P[known_P], "o-", ms=4, lw=1.8, color=PALETTE[0])
    axes.annotate("too low", (0.04, 0.93), **LABEL)
    axes.annotate("too high", (0.78, 0.05), **LABEL)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability", ylabel="true pixels; bars: share of all pixels")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
