"""The graph of a data set: how its tiles spread over bins, folds and fractions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from histofold.report.graph_style import INK, LABEL, MUTED, finish_figure, new_figure, style_axes

BINS = ("none", "very_small", "small", "some", "large")
_BIN_COLOURS = ("#D9DCE1", "#BFDCEB", "#7DB8DA", "#3288BD", "#0B4F7D")


def plot_class_balance(index: pd.DataFrame, path: Path | None = None) -> bytes:
    """Draw how the tiles spread over bins, folds, mask fractions and tissue fractions.

    Args:
        index: Columns fold, bin, mask_fraction, tissue_fraction of index.csv.
        path: File to write, if any.

    Returns:
        The PNG's bytes.
    """
    figure = new_figure(6.2)
    (by_bin, by_fold), (mask, tissue) = figure.subplots(2, 2)
    colours = dict(zip(BINS, _BIN_COLOURS, strict=True))
    bins = [*BINS, *sorted(set(index["bin"].astype(str)) - set(BINS))]
    _draw_bin_bars(by_bin, index["bin"].astype(str).value_counts(), bins, colours)
    _draw_fold_bars(by_fold, pd.crosstab(index["fold"], index["bin"].astype(str)), bins, colours)
    marked = index.loc[index["mask_fraction"] > 0, "mask_fraction"]
    title = f"Mask fraction, {len(marked):,} tiles with any"
    _draw_fractions(mask, marked, title, "share of the tile's pixels in the mask", _BIN_COLOURS[3])
    tissue_title = f"Tissue fraction, all {len(index):,} tiles"
    _draw_fractions(tissue, index["tissue_fraction"], tissue_title, "share of the tile's pixels on tissue", "#B58DB6")
    return finish_figure(figure, path)


def _draw_bin_bars(axes: Axes, counts: pd.Series, bins: list[str], colours: Mapping[str, str]) -> None:
    """Horizontal bars of tiles per bin, each with its count."""
    style_axes(axes, "Tiles per bin", grid="x")
    axes.grid(visible=False)
    values = [int(counts.get(name, 0)) for name in bins]
    rows = range(len(bins))[::-1]
    axes.barh(rows, values, color=[colours.get(name, MUTED) for name in bins], height=0.7)
    for row, value in zip(rows, values, strict=True):
        share = f" ({value / max(1, sum(values)):.0%})"
        axes.annotate(f"{value:,}{share}", (value, row), (5, 0), textcoords="offset points", va="center", **LABEL)
    axes.set_yticks(rows, [name.replace("_", " ") for name in bins])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, 1.35 * max(1, *values))


def _draw_fold_bars(axes: Axes, table: pd.DataFrame, bins: list[str], colours: Mapping[str, str]) -> None:
    """Stacked bars of tiles per fold, coloured by bin as the bars beside them, with the total on top."""
    style_axes(axes, "Tiles per fold, by bin")
    axes.grid(visible=False)
    places, base = np.arange(len(table)), np.zeros(len(table))
    for name in (name for name in bins if name in table):
        axes.bar(places, table[name], bottom=base, color=colours.get(name, MUTED), width=0.7, ec="white", lw=0.6)
        base += table[name].to_numpy(float)
    for place, total in zip(places, base, strict=True):
        axes.annotate(f"{int(total):,}", (place, total), (0, 4), textcoords="offset points", ha="center", **LABEL)
    axes.set_xticks(places, [f"fold {fold}" for fold in table.index])
    axes.set_yticks([])
    axes.set_ylim(0, 1.12 * max(1.0, base.max(initial=0.0)))


def _draw_fractions(axes: Axes, values: pd.Series, title: str, label: str, colour: str) -> None:
    """Histogram of fractions, 0 to 1."""
    style_axes(axes, title)
    axes.hist(values.dropna(), bins=25, range=(0, 1), color=colour, ec="white", lw=0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    axes.set_ylabel("tiles")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
