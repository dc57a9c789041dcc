"""The curves of finished or running folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histofold.report.plots import plot_curves


def draw_fold_curves(folder: Path) -> Path:
    """Draw curves.png beside the log.csv of a fold."""
    path = folder / "curves.png"
    plot_curves(pd.read_csv(folder / "log.csv"), path)
    return path
