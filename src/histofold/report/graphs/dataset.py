"""Graphs of a data set: sizes, scales, areas and colours of its slides, and its tiles by bin and fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from histofold.data.explore.slides import SlideFacts
from histofold.data.tiles.cut import TILE_BINS
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

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BIN_COLOURS = ("#D9DCE1", "#BFDCEB", "#7DB8DA", "#3288BD", "#0B4F7D")
_LOG_RANGE = 20  # areas that differ by more than this factor are drawn on a logarithmic scale


def facts_table(facts: Sequence[SlideFacts]) -> pd.DataFrame:
    """The facts as a table, one row a slide; areas of objects in um2 where the pixel size is known."""
    rows = []
    for fact in facts:
        sample, size = fact.sample, fact.sample.pixel_size_um
        rows.append(
            {
                "id": sample.id,
                "organ": sample.organ or "not named",
                "source": sample.source or "not named",
                "group": sample.group or sample.id,
                "pixel_size_um": np.nan if size is None else size,
                "height": fact.shape_hw[0],
                "width": fact.shape_hw[1],
                "mask_fraction": fact.mask_fraction,
                "objects": fact.objects,
                "object_area_um2": np.nan if size is None else fact.object_area_px * size**2,
                "blank_fraction": fact.blank_fraction,
            }
        )
    return pd.DataFrame(rows)


def plot_slides(facts: Sequence[SlideFacts]) -> bytes:
    """Draw sizes, pixel sizes, labelled shares and areas of objects, by organ and source.

    Args:
        facts: Of at least one slide.

    Returns:
        The PNG's bytes.
    """
    table = facts_table(facts)
    figure = new_figure(6.4)
    (sizes, scales), (shares, areas) = figure.subplots(2, 2)
    organs, sources = sorted(table["organ"].unique()), sorted(table["source"].unique())
    _draw_sizes(sizes, table, sources)
    _draw_strips(scales, table, "pixel_size_um", "Pixel size, um", organs, sources)
    _draw_strips(shares, table, "mask_fraction", "Labelled share of the image", organs, sources)
    _draw_strips(areas, table, "object_area_um2", "Median area of an object, um²", organs, sources)
    if len(sources) > 1:
        handles = [dot_handle(source, *_look(place)) for place, source in enumerate(sources)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return finish_figure(figure)


def plot_colours(facts: Sequence[SlideFacts]) -> bytes:
    """Draw the mean colour of each slide's tissue, inside and outside the labels, in CIE L*a*b*.

    Args:
        facts: Slides whose images were looked at; others are left out.

    Returns:
        The PNG's bytes.
    """
    sources = sorted({fact.sample.source or "not named" for fact in facts})
    figure = new_figure(4.0)
    hue, light = figure.subplots(1, 2)
    style_axes(hue, "Hue of the tissue")
    style_axes(light, "Lightness and colourfulness")
    for fact in facts:
        place = sources.index(fact.sample.source or "not named")
        for lab, filled in ((fact.inside_lab, True), (fact.outside_lab, False)):
            if not np.isfinite(lab).all():
                continue
            colour, marker = _look(place)
            look: dict[str, Any] = {"marker": marker, "ms": 4.5, "mec": colour, "mew": 0.9, "alpha": 0.75}
            hue.plot(lab[1], lab[2], ls="", mfc=colour if filled else "white", **look)
            chroma = float(np.hypot(lab[1], lab[2]))
            light.plot(chroma, lab[0], ls="", mfc=colour if filled else "white", **look)
    hue.set_xlabel("a*, green to red")
    hue.set_ylabel("b*, blue to yellow")
    light.set_xlabel("chroma")
    light.set_ylabel("L*")
    handles = [dot_handle(source, *_look(place)) for place, source in enumerate(sources)]
    grey: dict[str, Any] = {"ls": "", "marker": "o", "ms": 6, "mec": MUTED}
    handles += [
        Line2D([], [], mfc=MUTED, label="labelled", **grey),
        Line2D([], [], mfc="white", label="not labelled", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return finish_figure(figure)


def _look(place: int) -> tuple[str, str]:
    """Colour and marker of a source by its place."""
    return PALETTE[place % len(PALETTE)], _MARKERS[place % len(_MARKERS)]


def _draw_sizes(axes: Axes, table: pd.DataFrame, sources: list[str]) -> None:
    """Width against height; equal sizes are one dot whose area counts them."""
    style_axes(axes, "Image size, pixels")
    counted = table.groupby(["source", "height", "width"]).size().reset_index(name="count")
    for place, source in enumerate(sources):
        part = counted[counted["source"] == source]
        colour, marker = _look(place)
        sizes = 14 + 120 * part["count"] / max(1, len(table))
        axes.scatter(part["width"], part["height"], s=sizes, c=colour, marker=marker, alpha=0.6, lw=0)
    axes.set_xlabel("width")
    axes.set_ylabel("height")
    top = 1.08 * max(table["height"].max(), table["width"].max())
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)


def _draw_strips(
    axes: Axes, table: pd.DataFrame, column: str, title: str, organs: list[str], sources: list[str]
) -> None:
    """Every slide as a dot, a row for each organ, with the median as a stroke."""
    style_axes(axes, title, grid="x")
    jitter = np.random.default_rng(0)
    for row, organ in enumerate(organs):
        members = table[table["organ"] == organ]
        for place, source in enumerate(sources):
            values = members.loc[members["source"] == source, column].dropna()
            heights = row + jitter.uniform(-0.25, 0.25, len(values))
            colour, marker = _look(place)
            axes.scatter(values, heights, s=9, c=colour, marker=marker, alpha=0.5, lw=0)
        if members[column].notna().any():
            median = float(members[column].median())
            axes.plot([median, median], [row - 0.36, row + 0.36], color=INK, lw=1.6)
    axes.set_yticks(range(len(organs)), organs)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(organs) - 0.4)
    known = table[column].dropna()
    if len(known) and known.min() > 0 and known.max() > _LOG_RANGE * known.min() and column == "object_area_um2":
        axes.set_xscale("log")
    elif len(known):
        axes.set_xlim(left=0)
    else:
        say_empty(axes, "not known")


def plot_class_balance(index: pd.DataFrame) -> bytes:
    """Draw how the tiles spread over bins, folds, mask fractions and tissue fractions.

    Args:
        index: Columns fold, bin, mask_fraction, tissue_fraction of index.csv.

    Returns:
        The PNG's bytes.
    """
    figure = new_figure(6.2)
    (by_bin, by_fold), (mask, tissue) = figure.subplots(2, 2)
    colours = dict(zip(TILE_BINS, _BIN_COLOURS, strict=True))
    bins = [*TILE_BINS, *sorted(set(index["bin"].astype(str)) - set(TILE_BINS))]
    _draw_bin_bars(by_bin, index["bin"].astype(str).value_counts(), bins, colours)
    _draw_fold_bars(by_fold, pd.crosstab(index["fold"], index["bin"].astype(str)), bins, colours)
    marked = index.loc[index["mask_fraction"] > 0, "mask_fraction"]
    title = f"Mask fraction, {len(marked):,} tiles with any"
    _draw_fractions(mask, marked, title, "share of the tile's pixels in the mask", _BIN_COLOURS[3])
    tissue_title = f"Tissue fraction, all {len(index):,} tiles"
    _draw_fractions(tissue, index["tissue_fraction"], tissue_title, "share of the tile's pixels on tissue", "#B58DB6")
    return finish_figure(figure)


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
    if not values.notna().any():
        axes.set_yticks([])
        say_empty(axes, "none")
        return
    axes.hist(values.dropna(), bins=25, range=(0, 1), color=colour, ec="white", lw=0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    axes.set_ylabel("tiles")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
