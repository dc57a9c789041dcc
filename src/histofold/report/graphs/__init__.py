"""Graphs; here, the look that they share, and their way into a PNG: without pyplot and its global state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from histofold.schema.files import write_bytes_atomically

INK, MUTED = "#22262E", "#6B7280"
_GRID = "#E5E7EB"
_WIDTH_IN, _DPI = 8.0, 160
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's, without its yellow, which is too light for lines on white paper."""
LABEL: dict[str, Any] = {"fontsize": 9, "color": INK}


def new_figure(height_in: float) -> Figure:
    """An empty white figure of the reports' width."""
    return Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained", facecolor="white")


def finish_figure(figure: Figure, path: Path | None = None) -> bytes:
    """Render to PNG bytes, the same for the same data, and write them if a path is given."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    if path is not None:
        write_bytes_atomically(path, buffer.getvalue())
    return buffer.getvalue()


def style_axes(axes: Axes, title: str, grid: Literal["x", "y"] = "y") -> None:
    """Title at the left, one faint grid, no frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    axes.xaxis.label.set(fontsize=9.5, color=MUTED)
    axes.yaxis.label.set(fontsize=9.5, color=MUTED)
    axes.grid(axis=grid, color=_GRID, lw=0.8)
    axes.set_axisbelow(True)


def say_empty(axes: Axes, words: str) -> None:
    """Words where there is nothing to draw, instead of an empty scale."""
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=9.5, color=MUTED)


def dot_handle(label: str, colour: str, marker: str = "o", hollow: bool = False) -> Line2D:
    """A legend entry: one dot."""
    return Line2D([], [], ls="", marker=marker, ms=6, mec=colour, mfc="white" if hollow else colour, label=label)
