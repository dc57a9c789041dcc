"""The page of a sweep: what was best, the figure, and every trial."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histofold.report.page import Facts, Figure, Section, Table, Text, write_page


def write_sweep_page(path: Path, name: str, table: pd.DataFrame, metric: str, figure: bytes, note: str) -> None:
    """Write the report of a sweep.

    Args:
        path: Where to, usually runs/S/report.html.
        name: The sweep's name.
        table: One row a trial, the best on top; with the columns trial, state and the metric.
        metric: What decided, val_dice or loss.
        figure: The PNG of `plot_sweep`.
        note: What a reader must know to trust the best score.
    """
    counts = {f"{state} trials": int(count) for state, count in table["state"].value_counts().items()}
    first = table.iloc[0] if len(table) and table["state"].iloc[0] == "complete" else None
    best = {} if first is None else {f"best {metric}": float(first[metric]), "of trial": int(first["trial"])}
    shown = table.drop(columns="folder", errors="ignore")
    rows = shown.astype(object).where(shown.notna(), None).values.tolist()
    caption = "The ring marks the best trial by the metric that decided."
    sections = [
        Section("", [Facts({**best, **counts}), Text([note], tone="warn")]),
        Section(
            "Loss and Dice against the settings",
            [Figure(figure, caption)],
        ),
        Section("Every trial, best first", [Table(list(shown.columns), rows)]),
    ]
    write_page(path, f"Sweep {name}", "Each trial trains one choice of settings from the same start.", sections)
