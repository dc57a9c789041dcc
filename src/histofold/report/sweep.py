"""The figure and the page of a sweep: loss and score against its settings, and the score as the trials went on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from histofold.report.blocks import Facts, Figure, Section, Table, Text
from histofold.report.graphs import INK, LABEL, MUTED, PALETTE, finish_figure, new_figure, say_empty, style_axes
from histofold.report.page import write_page

_NAMES = {"val_dice": "Validation score", "shift": "Shift score", "loss": "Training loss"}
_BLUE, _ORANGE = PALETTE[:2]
_LOG_RANGE = 8  # settings that differ by at least this factor are drawn on a logarithmic scale
_MOST_LETTERS = 36  # of names in a row below half a page; longer rows are tilted
_MOST_CELLS = 12  # a side of a heat map; more are drawn as dots


def plot_sweep(table: pd.DataFrame, settings: Sequence[str], metric: str, path: Path | None = None) -> bytes:
    """Draw loss and score against the settings: as heat maps of a grid of two settings, else as dots for each setting.

    Args:
        table: One row a trial: trial, each setting, shift where it decided, val_dice, loss, state (complete, pruned,
            failed, ...).
        settings: The settings, as columns of the table; those that did not vary are not drawn.
        metric: What decided, val_dice, shift or loss.
        path: File to write, if any.

    Returns:
        The PNG's bytes.
    """
    numbers = [name for name in _NAMES if name in table.columns]
    frame = table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})
    settings = [name for name in settings if frame[name].astype(str).nunique() > 1] or list(settings[:1])
    is_map = len(settings) == 2 and _is_grid(frame, settings)
    rows = 1 if is_map else len(settings)
    heights = [3.4] if is_map else [2.5] * rows
    figure = new_figure(sum(heights) + 2.9)
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[sum(heights), 2.9])
    top, bottom = halves[0][0], halves[1][0]
    panels = top.subplots(rows, 2, squeeze=False)
    best = _best(frame, metric)
    for column, value in enumerate(("loss", "val_dice" if metric == "loss" else metric)):
        if is_map:
            _draw_map(panels[0][column], frame, settings, value, best)
            continue
        for row, setting in enumerate(settings):
            _draw_setting(panels[row][column], frame, setting, value, best)
    _draw_history(bottom.subplots(), frame, metric)
    handles = _legend_handles(frame, best, is_map)
    top.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return finish_figure(figure, path)


def write_sweep_report(folder: Path, table: pd.DataFrame, settings: Sequence[str], metric: str, note: str) -> None:
    """Write figure.png and report.html of a sweep.

    Args:
        folder: runs/S, whose name is the sweep's.
        table: One row a trial, the best on top; with the columns trial, state and the metric.
        settings: The settings that were searched.
        metric: What decided, val_dice, shift or loss.
        note: What a reader must know to trust the best score.
    """
    figure = plot_sweep(table, settings, metric, folder / "figure.png")
    counts = {f"{state} trials": int(count) for state, count in table["state"].value_counts().items()}
    first = table.iloc[0] if len(table) and table["state"].iloc[0] == "complete" else None
    best = {} if first is None else {f"best {metric}": float(first[metric]), "of trial": int(first["trial"])}
    shown = table.drop(columns="folder", errors="ignore")
    rows = shown.astype(object).where(shown.notna(), None).values.tolist()
    caption = "The ring marks the best trial by the metric that decided; scores are Dice, those of objects their AP."
    sections = [
        Section("", [Facts({**best, **counts}), Text([note], tone="warn")]),
        Section(
            "Loss and score against the settings",
            [Figure(figure, caption)],
        ),
        Section("Every trial, best first", [Table(list(shown.columns), rows)]),
    ]
    write_page(
        folder / "report.html",
        f"Sweep {folder.name}",
        f"Each trial trains one choice of settings from the same start; the {_NAMES[metric].lower()} decides.",
        sections,
    )


def _best(frame: pd.DataFrame, metric: str) -> int | None:
    """Row label of the best complete trial."""
    done = frame[(frame["state"] == "complete") & frame[metric].notna()]
    if done.empty:
        return None
    return int(done[metric].idxmin() if metric == "loss" else done[metric].idxmax())


def _is_grid(frame: pd.DataFrame, settings: Sequence[str]) -> bool:
    """Whether the trials are the cells of a table of two settings, each there at most once."""
    cells = frame[list(settings)].astype(str)
    sides = [cells[name].nunique() for name in settings]
    full = sides[0] * sides[1] == len(cells)
    return full and not cells.duplicated().any() and min(sides) > 1 and max(sides) <= _MOST_CELLS


def _levels(values: pd.Series) -> list[Any]:
    """The different values of a setting: numbers ascending, others as they come."""
    levels = list(dict.fromkeys(values.tolist()))
    return sorted(levels) if all(_is_number(level) for level in levels) else levels


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_)) and value == value


def _is_logarithmic(levels: Sequence[Any]) -> bool:
    return all(_is_number(v) and v > 0 for v in levels) and len(levels) > 1 and max(levels) >= _LOG_RANGE * min(levels)


def _text(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)


def _edges(levels: Sequence[Any]) -> np.ndarray:
    """Edges of the cells around their levels: halfway on a logarithmic axis, else one cell as wide as another."""
    if not _is_logarithmic(levels):
        return np.arange(len(levels) + 1) - 0.5
    logs = np.log(np.array(levels, float))
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middles[0]], middles, [2 * logs[-1] - middles[-1]]]))


def _places(levels: Sequence[Any]) -> list[float]:
    return [float(v) for v in levels] if _is_logarithmic(levels) else [float(k) for k in range(len(levels))]


def _draw_map(axes: Axes, frame: pd.DataFrame, settings: Sequence[str], value: str, best: int | None) -> None:
    """One cell a trial, its value written in it; cells without a whole run say why."""
    across, up = (_levels(frame[name]) for name in settings)
    complete = np.full((len(up), len(across)), np.nan)
    at = [(up.index(row[settings[1]]), across.index(row[settings[0]])) for _, row in frame.iterrows()]
    for (y, x), state, number in zip(at, frame["state"], frame[value], strict=True):
        complete[y, x] = number if state == "complete" else np.nan
    style_axes(axes, _NAMES[value])
    axes.grid(visible=False)
    colours = "YlGnBu_r" if value == "loss" else "YlGnBu"
    mesh = axes.pcolormesh(_edges(across), _edges(up), complete, cmap=colours, edgecolors="white", linewidth=1.5)
    for axis, levels in ((axes.xaxis, across), (axes.yaxis, up)):
        if _is_logarithmic(levels):
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
        axis.set_ticks(_places(levels), [_text(level) for level in levels])
        axis.set_ticks([], minor=True)
    crowded = max(len(up), len(across)) > 7
    for (label, row), (y, x) in zip(frame.iterrows(), at, strict=True):
        _write_cell(axes, (_places(across)[x], _places(up)[y]), row, value, mesh, crowded, label == best)
    axes.set_xlabel(settings[0])
    axes.set_ylabel(settings[1])


def _write_cell(
    axes: Axes, place: tuple[float, float], row: pd.Series, value: str, mesh: Any, crowded: bool, is_best: bool
) -> None:
    """The number of a cell in a readable colour, or the state of a trial that has none; the best one has a ring."""
    done = row["state"] == "complete" and row[value] == row[value]
    text = f"{row[value]:.2f}" if crowded else f"{row[value]:.3f}"
    colour = MUTED
    if done:
        red, green, blue, _ = mesh.to_rgba(row[value])
        colour = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
    weight = "bold" if is_best else "normal"
    axes.text(*place, text if done else row["state"], ha="center", va="center", color=colour, fontsize=9, weight=weight)
    if is_best:
        axes.plot(*place, "o", ms=24 if crowded else 38, mfc="none", mec=_ORANGE, mew=1.8)


def _draw_setting(axes: Axes, frame: pd.DataFrame, setting: str, value: str, best: int | None) -> None:
    """Every trial as a dot over the setting; a line through the medians where values repeat or few vary."""
    style_axes(axes, _NAMES[value])
    levels = _levels(frame[setting].dropna())
    numeric = all(_is_number(level) for level in levels)
    places = [float(level) for level in levels] if numeric else [float(k) for k in range(len(levels))]
    place_of = dict(zip(map(_text, levels), places, strict=True))
    at = frame[setting].map(lambda level: place_of.get(_text(level), np.nan))
    done, pruned = frame["state"] == "complete", frame["state"] == "pruned"
    if numeric and _is_logarithmic(levels):
        axes.set_xscale("log")
    if len(levels) <= _MOST_CELLS:
        if (numeric and len(levels) <= 6) or not numeric:
            names = [_text(level) for level in levels]
            axes.set_xticks(places, names)
            axes.tick_params(axis="x", labelrotation=20 if sum(map(len, names)) > _MOST_LETTERS else 0)
            axes.set_xticks([], minor=True)
        medians = frame[done].groupby(at[done])[value].median()
        axes.plot(medians.index, medians, color=_BLUE, lw=1.2, alpha=0.5)
    axes.plot(at[done], frame.loc[done, value], "o", ms=5, color=_BLUE, alpha=0.75, mew=0)
    axes.plot(at[pruned], frame.loc[pruned, value], "o", ms=5, mec=MUTED, mfc="white")
    failed = at[frame["state"] == "failed"].dropna()
    axes.plot(failed, [0.03] * len(failed), "x", color=_ORANGE, ms=6, transform=axes.get_xaxis_transform())
    if best is not None:
        axes.plot([at[best]], [frame.loc[best, value]], "o", ms=11, mfc="none", mec=_ORANGE, mew=1.8)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(setting)


def _draw_history(axes: Axes, frame: pd.DataFrame, metric: str) -> None:
    """Score of each trial by its number, and the best so far as steps."""
    style_axes(axes, f"{_NAMES[metric]} as the trials went on")
    ordered = frame.sort_values("trial")
    done = ordered[(ordered["state"] == "complete") & ordered[metric].notna()]
    if done.empty:
        axes.set_yticks([])
        say_empty(axes, "no trial is complete")
        return
    axes.plot(done["trial"], done[metric], "o", ms=5, color=_BLUE, alpha=0.75, mew=0)
    running = done[metric].cummin() if metric == "loss" else done[metric].cummax()
    axes.step(done["trial"], running, where="post", color=_ORANGE, lw=1.5)
    last = float(running.iloc[-1])
    place: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
    is_chosen = metric != "loss" and ordered["state"].isin(("complete", "pruned")).sum() > 1
    note = "best so far" + (" (optimistic)" if is_chosen else "") + f"\n{last:.4f}"
    axes.annotate(note, (float(done["trial"].iloc[-1]), last), annotation_clip=False, **place, **LABEL)
    axes.set_xlim(-0.5, max(1.0, float(ordered["trial"].max()) * 1.15 + 0.5))
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend_handles(frame: pd.DataFrame, best: int | None, is_map: bool) -> list[Line2D]:
    """What the marks mean, and nothing that was not drawn."""
    dot: dict[str, Any] = {"ls": "", "marker": "o"}
    handles = [] if is_map else [Line2D([], [], color=_BLUE, ms=5, label="a trial", **dot)]
    if not is_map and (frame["state"] == "complete").any():
        handles.append(Line2D([], [], color=_BLUE, lw=1.2, alpha=0.5, label="median, where few values vary"))
    if best is not None:
        handles.append(Line2D([], [], ms=9, mfc="none", mec=_ORANGE, mew=1.6, label="best", **dot))
    if not is_map and (frame["state"] == "pruned").any():
        handles.append(Line2D([], [], ms=5, mec=MUTED, mfc="white", label="pruned (last score)", **dot))
    if not is_map and (frame["state"] == "failed").any():
        handles.append(Line2D([], [], ls="", marker="x", color=_ORANGE, ms=6, label="failed"))
    return handles
