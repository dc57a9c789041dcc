"""Graphs of a run, drawn without pyplot and its global state.

Every function returns the bytes of a PNG and, given a path, also writes them there, whole or not at all.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from histofold.core.faults import Fault, InputError
from histofold.data.store import read_own_table
from histofold.report.graphs import INK, MUTED, PALETTE, dot_handle, finish_figure, new_figure, style_axes
from histofold.schema.run_record import RECORD_NAME, read_record

_COLOUR = PALETTE[0]
_SMOOTHING_SHARE = 1 / 40
_LEAST_DICE_SPAN = 0.05
_DASHED: dict[str, Any] = {"lw": 1.3, "ls": (0, (4, 2)), "marker": "o", "ms": 2.5}


def plot_curves(log: pd.DataFrame, path: Path | None = None) -> bytes:
    """Draw loss, validation score and learning rate against the optimisation step.

    The last score is marked as the reported one; where another one was better, that is shown hollow, as the optimistic
    one. Where the loss has several parts each has a thin line, without its weight.

    Args:
        log: Columns step, lr, loss, its parts as loss_NAME, val_loss, and the score as val_dice and val_dice_raw, or by
            another metric's name (blank where nothing was validated).
        path: File to write, if any.

    Returns:
        The PNG's bytes.
    """
    frame = _numeric(log)
    figure = new_figure(7.4)
    loss_axes, dice_axes, rate_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.3))
    rate = _points(frame, "lr")
    power = math.floor(math.log10(rate.max())) if len(rate) and rate.max() > 0 else 0
    style_axes(loss_axes, "Loss")
    score = _score_column(frame)
    metric = score.removeprefix("val_")
    style_axes(dice_axes, "Validation Dice, at 0.5" if metric == "dice" else f"Validation {metric.upper()}")
    style_axes(rate_axes, "Learning rate" + (f" (×10$^{{{power}}}$)" if power else ""))
    _draw_loss(loss_axes, frame)
    _draw_validation(dice_axes, frame, score)
    _draw_line(rate_axes, rate / 10.0**power, lw=1.3)
    rate_axes.set_xlabel("optimisation step")
    rate_axes.set_ylim(bottom=0)
    rate_axes.set_xlim(0, max(1.0, float(frame["step"].max()) if len(frame) else 1.0))
    rate_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _curve_legends(loss_axes, dice_axes, frame, score)
    return finish_figure(figure, path)


def _score_column(frame: pd.DataFrame) -> str:
    """The column of the validation score: `val_` and the name of the metric."""
    named = [name for name in frame if name.startswith("val_") and name != "val_loss" and not name.endswith("_raw")]
    return named[0] if named else "val_dice"


def _loss_parts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The parts of the loss by name, where there are several."""
    parts = {name.removeprefix("loss_"): _points(frame, name) for name in frame if name.startswith("loss_")}
    return parts if len(parts) > 1 else {}


def read_log(folder: Path) -> pd.DataFrame:
    """The log.csv of a fold.

    Raises:
        InputError: If it is missing, cut short, or ends before the finished run did.
    """
    path, remedy = folder / "log.csv", f"copy the run again, or remove {folder} and train the fold anew"
    log = read_own_table(path, {}, remedy)
    steps = read_record(folder).steps if (folder / RECORD_NAME).is_file() else None
    if "step" not in log or (steps is not None and steps not in log["step"].tolist()):
        raise InputError([Fault(folder.name, str(path), "it ends before the run did: it was cut short", remedy)])
    return log


def draw_fold_curves(folder: Path) -> Path:
    """Draw curves.png beside the log.csv of a fold."""
    path = folder / "curves.png"
    plot_curves(read_log(folder), path)
    return path


def plot_scores(oof: pd.DataFrame, column: str = "dice", word: str = "Dice", by: str = "organ") -> bytes:
    """Draw every image's score by organ or source, over the middle half and the median of each.

    Args:
        oof: Columns id, fold, source, the score and what it is drawn by; rows without a score are counted, not drawn.
        column: The score's.
        word: What the score is called.
        by: Column that names a row of the graph.

    Returns:
        The PNG's bytes.
    """
    scored = oof[oof[column].notna()]
    named = scored[by].notna() & (scored[by] != "")
    rows = scored[by].astype(object).where(named, "not named")
    groups = sorted(scored.groupby(rows), key=lambda item: item[1][column].median())
    figure = new_figure(1.3 + 0.62 * max(1, len(groups)))
    axes = figure.subplots()
    style_axes(axes, f"{word} of every image, by {by}", grid="x")
    sources = sorted(scored["source"].astype(str).unique()) if "source" in scored else []
    jitter = np.random.default_rng(0)
    for row, (name, members) in enumerate(groups):
        _draw_strip(axes, row, str(name), members.assign(score=members[column]), sources, jitter)
    low = float(scored[column].min()) if len(scored) else 0.0
    axes.set_xlim(max(-0.02, math.floor(low * 10 - 0.5) / 10), 1.02)
    axes.set_ylim(-0.6, max(1, len(groups)) - 0.4)
    axes.set_yticks(range(len(groups)), [str(name) for name, _ in groups])
    axes.tick_params(axis="y", labelsize=10, labelcolor=INK)
    missing = len(oof) - len(scored)
    axes.set_xlabel(word + (f"   ({missing} without a score, not shown)" if missing else ""))
    if len(sources) > 1:
        _legend(axes, [dot_handle(source, PALETTE[at % len(PALETTE)]) for at, source in enumerate(sources)])
    return finish_figure(figure)


def _legend(axes: Axes, handles: list[Line2D]) -> None:
    """A frameless legend above the right end, where it covers nothing: in one row, of many entries in two."""
    columns = len(handles) if len(handles) <= 3 else -(-len(handles) // 2)
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": columns}
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 1.6, "columnspacing": 1.2}
    axes.legend(handles=handles, labelcolor=INK, **look, **above)


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """The log as numbers; what is blank, not a number or infinite becomes NaN."""
    return frame.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)


def _points(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column against the step, blanks dropped; empty where the log lacks it."""
    if column not in frame:
        return pd.Series(dtype=float)
    return pd.Series(frame[column].to_numpy(float), index=frame["step"].to_numpy(float)).dropna()


def _draw_loss(axes: Axes, frame: pd.DataFrame) -> None:
    """Training loss, raw light and smoothed, its parts smoothed, and validation loss dashed."""
    raw, validation = _points(frame, "loss"), _points(frame, "val_loss")
    axes.plot(raw.index, raw, color=_COLOUR, lw=0.7, alpha=0.22)
    for place, values in enumerate(_loss_parts(frame).values(), start=1):
        axes.plot(values.index, _smoothed(values), color=PALETTE[place % len(PALETTE)], lw=0.9)
    _draw_line(axes, _smoothed(raw), lw=1.8)
    axes.plot(validation.index, validation, color=_COLOUR, **_DASHED)


def _smoothed(values: pd.Series) -> pd.Series:
    """A centred mean: no lag."""
    return values.rolling(max(1, round(len(values) * _SMOOTHING_SHARE)), center=True, min_periods=1).mean()


def _draw_line(axes: Axes, values: pd.Series, lw: float) -> None:
    """A line through values by their index; a single one, through which no line goes, is a dot."""
    marker = "o" if len(values) == 1 else ""
    axes.plot(values.index, values, color=_COLOUR, lw=lw, marker=marker, ms=4, clip_on=not marker)


def _draw_validation(axes: Axes, frame: pd.DataFrame, score: str) -> None:
    """Averaged weights' score with its last value, named beside the line's end, and a better one if there was any."""
    averaged, raw = _points(frame, score), _points(frame, f"{score}_raw")
    axes.plot(raw.index, raw, color=_COLOUR, lw=1, alpha=0.35)
    axes.plot(averaged.index, averaged, color=_COLOUR, lw=1.8)
    if averaged.empty:
        return
    last = float(averaged.iloc[-1])
    if (best := _better_before(averaged)) is not None:
        axes.plot(best, averaged[best], "o", ms=8, mec=_COLOUR, mfc="white", mew=1.5, clip_on=False)
    axes.plot(averaged.index[-1], last, "o", ms=6, color=_COLOUR, clip_on=False)
    low, high = axes.get_ylim()
    if high - low < _LEAST_DICE_SPAN:  # else the noise of a few validations looks like a rise
        middle = (low + high) / 2
        axes.set_ylim(middle - _LEAST_DICE_SPAN / 2, middle + _LEAST_DICE_SPAN / 2)
    _note(axes, f"{last:.4f}", last, _COLOUR)


def _better_before(averaged: pd.Series) -> float | None:
    """The step of the best validation where that is not the last one."""
    return float(averaged.idxmax()) if averaged.max() > averaged.iloc[-1] else None


def _curve_legends(loss_axes: Axes, dice_axes: Axes, frame: pd.DataFrame, score: str) -> None:
    """Say what the line styles and marks mean, and nothing that was not drawn."""
    drawn = [
        Line2D([], [], color=PALETTE[place % len(PALETTE)], lw=0.9, label=name.replace("_", " "))
        for place, name in enumerate(_loss_parts(frame), start=1)
    ]
    if len(_points(frame, "val_loss")):
        drawn.append(Line2D([], [], color=_COLOUR, label="validation", **_DASHED))
    if drawn:
        _legend(loss_axes, [Line2D([], [], color=_COLOUR, lw=1.8, label="training, smoothed"), *drawn])
    averaged = _points(frame, score)
    if len(averaged):
        handles = []
        if len(averaged) > 1:
            handles.append(Line2D([], [], color=_COLOUR, lw=1.8, label="averaged weights"))
        if len(_points(frame, f"{score}_raw")):
            handles.append(Line2D([], [], color=_COLOUR, lw=1, alpha=0.5, label="raw weights"))
        handles.append(dot_handle("last (reported)", _COLOUR))
        if _better_before(averaged) is not None:
            handles.append(dot_handle(f"best (optimistic) {averaged.max():.4f}", _COLOUR, hollow=True))
        _legend(dice_axes, handles)


def _note(axes: Axes, text: str, y: float, colour: str) -> None:
    """Write a note beside the right end of the axes, at a height in data units."""
    axes.annotate(text, (1.012, y), xycoords=axes.get_yaxis_transform(), fontsize=9.5, color=colour, va="center")


def _draw_strip(
    axes: Axes, row: int, name: str, members: pd.DataFrame, sources: list[str], jitter: np.random.Generator
) -> None:
    """One group: its images as dots, its quartiles as a bar, its median as a stroke, its size and mean in words."""
    values = members["score"].to_numpy(float)
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    axes.barh(row, high - low, left=low, height=0.56, color="#EDEFF3", zorder=1)
    colours = [PALETTE[sources.index(str(source)) % len(PALETTE)] for source in members.get("source", [])]
    heights = row + jitter.uniform(-0.22, 0.22, len(values))
    axes.scatter(values, heights, s=16, c=colours or _COLOUR, alpha=0.65, lw=0, zorder=3)
    axes.plot([median, median], [row - 0.34, row + 0.34], color=INK, lw=2, zorder=4)
    _note(axes, f"median {median:.3f}\nn = {len(values)}", row, MUTED)
