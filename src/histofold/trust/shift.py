"""The shift score: held-out slides predicted once more as a hidden set would show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from histofold.trust.choices import Candidate
from histofold.trust.intervals import bounds_words, grouped_interval, score_bounds
from histofold.trust.oof import FoldScores

HIDDEN_STAINS = ("H&E", "PAS")
"""Each slide is shown in each of these; all else that is shifted is that of its organ."""
ShiftUse = Literal["none", "score", "thresholds"]
"""Whether slides are also scored shifted, and whether thresholds are then chosen on that."""


def mean_scores(parts: Sequence[FoldScores[Candidate]]) -> FoldScores[Candidate]:
    """The mean of scores of the same slides, shown in several ways: what serves all of them is chosen on it."""
    return replace(parts[0], dice=np.mean([part.dice for part in parts], axis=0))


def shift_summary(by_stain: Mapping[str, pd.DataFrame], groups: Sequence[str], use: ShiftUse) -> dict[str, Any]:
    """The figures of shifted slides as plain data.

    Args:
        by_stain: Columns organ and dice of each stain's slides, in the same order.
        groups: Group of each slide.
        use: What thresholds were chosen on.
    """
    scores_N = np.mean([table["dice"] for table in by_stain.values()], axis=0)
    return {
        "dice": float(scores_N.mean()),
        "interval": score_bounds(grouped_interval(scores_N, groups)),
        "thresholds": "shifted" if use == "thresholds" else "plain",
        "stains": {
            stain: {"dice": float(table["dice"].mean()), "organs": table.groupby("organ")["dice"].mean().to_dict()}
            for stain, table in by_stain.items()
        },
    }


def shift_lines(shift: Mapping[str, Any]) -> list[str]:
    """The same in words: a line for each stain, and the shift score."""
    lines = []
    for stain, values in shift["stains"].items():
        organs = ", ".join(f"{organ} {dice:.4f}" for organ, dice in values["organs"].items() if organ)
        lines.append(f"shifted to {stain}: Dice {values['dice']:.4f}{organs and f' ({organs})'}")
    words = bounds_words(shift["interval"])
    return [*lines, f"shift score {shift['dice']:.4f} ({words}), at thresholds chosen on {shift['thresholds']} slides"]
