"""Two sets of scores of the same slides: the difference, slide by slide, and what chance could make of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histofold.competitions.base import read_table
from histofold.core.faults import Fault, InputError
from histofold.schema.sample import Sample
from histofold.trust.oof import grouped_interval

COMPARED_COLUMNS = ("id", "dice")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of scores.

    Attributes:
        first: Mean Dice of the first set.
        second: Mean Dice of the second set.
        interval: 95% interval of the mean difference (second less first), by the bootstrap over groups; infinite where
            there is one group, which says nothing of others.
        images: How many slides were compared.
        changed: Of how many the score differs.
    """

    first: float
    second: float
    interval: tuple[float, float]
    images: int
    changed: int

    @property
    def is_gain(self) -> bool:
        """Whether the second is better beyond chance: the whole interval lies above zero."""
        return self.interval[0] > 0

    def __str__(self) -> str:
        """The figures in words."""
        low, high = self.interval
        words = f"95% {low:+.4f} to {high:+.4f}" if math.isfinite(low) else "no interval: one group"
        difference = f"{self.second - self.first:+.4f} ({words})"
        return f"Dice {self.first:.4f} to {self.second:.4f}, {difference} on {self.images} slides"


def paired_difference(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> Difference:
    """How much better one set of scores is than another of the same slides.

    Args:
        first: Dice of each slide.
        second: Other Dice of each, in the same order.
        groups: Group of each slide.

    Raises:
        ValueError: If the lengths differ or there are no slides.
    """
    if not len(first) == len(second) == len(groups) or not len(first):
        counts = f"{len(first)} and {len(second)} scores of {len(groups)} slides"
        raise ValueError(f"{counts}: give one of each for every slide, and at least one slide")
    differences = np.subtract(second, first)
    return Difference(
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        interval=grouped_interval(differences, groups) if len(set(groups)) > 1 else (-math.inf, math.inf),
        images=len(first),
        changed=int((differences != 0).sum()),
    )


def run_difference(first_run: Path, second_run: Path, samples: Mapping[str, Sample]) -> Difference:
    """The difference of two evaluated runs, by their oof.csv.

    Args:
        first_run: runs/E.
        second_run: runs/E of another experiment on the same folds.
        samples: By id, for the groups.

    Raises:
        InputError: If an oof.csv is missing or they hold different slides.
    """
    tables = [
        read_table(run / "oof.csv", COMPARED_COLUMNS).set_index("id")["dice"].astype(float)
        for run in (first_run, second_run)
    ]
    if set(tables[0].index) != set(tables[1].index):
        rule = f"it scores other slides than {first_run / 'oof.csv'}"
        raise InputError([Fault("oof", str(second_run / "oof.csv"), rule, "evaluate both runs on the same folds")])
    ids = list(tables[0].index)
    groups = [samples[key].group or key for key in ids]
    return paired_difference(tables[0].tolist(), tables[1].loc[ids].tolist(), groups)
