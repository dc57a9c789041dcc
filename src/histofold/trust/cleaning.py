"""What cleaning of masks does to their Dice: every combination of its settings on one prediction, cut once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from histofold.competitions.base import runs_dice
from histofold.core.regions import component_areas, fill_holes, keep_largest, keep_seeded, label_runs, split_runs
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.core.rle.sets import pixels_within, subtract_runs
from histofold.predict.image import ImagePrediction
from histofold.schema.choices import CLEANING_SETTINGS
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import has_pixel_size
from histofold.trust.choices import ScoredCandidates, Trial, try_values

CANDIDATES: dict[str, tuple[float, ...]] = {
    "seed_threshold": (0.0, 0.7, 0.9),
    "max_hole_um2": (0.0, 300.0, 3000.0),
    "min_area_um2": (0.0, 100.0, 300.0, 1000.0, 3000.0),
}
"""What is tried of each of `CLEANING_SETTINGS`, beside the run's own."""


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """The settings of prediction that an evaluation of masks may choose, in the order in which masks are cleaned."""

    seed_threshold: float
    """The probability that a pixel of each component must reach; 0: every component stays."""
    max_hole_um2: float
    """Holes up to this area are filled."""
    min_area_um2: float
    """Components below this area go."""

    @classmethod
    def of(cls, settings: PredictConfig) -> Cleaning:
        """That of a manifest or an experiment."""
        return cls(**{name: getattr(settings, name) for name in CLEANING_SETTINGS})

    def having(self, name: str, value: float) -> Cleaning:
        """The same with another value of one setting."""
        changed: dict[str, Any] = {name: value}
        return replace(self, **changed)

    def values_beside(self, name: str) -> list[float]:
        """What is tried of a setting, its own value among it."""
        return sorted({*CANDIDATES[name], getattr(self, name)})

    def differing(self, own: Cleaning) -> dict[str, float]:
        """The settings in which it differs from the run's own."""
        return {name: value for name, value in vars(self).items() if value != getattr(own, name)}


def all_cleanings(own: Cleaning) -> list[Cleaning]:
    """Every combination of what is tried, the run's own first."""
    values = product(*(own.values_beside(name) for name in CLEANING_SETTINGS))
    made = [Cleaning(seed_threshold=seed, max_hole_um2=hole, min_area_um2=area) for seed, hole, area in values]
    return sorted(made, key=lambda each: each != own)


def choose_cleaning(
    scored: ScoredCandidates[Cleaning], own: Cleaning, folds: frozenset[int]
) -> tuple[Cleaning, list[Trial]]:
    """What some folds choose, one setting after the other, and what came of each; see `try_values`.

    Args:
        scored: The scores under all of `all_cleanings(own)`.
        own: The run's own settings.
        folds: Who chooses; no folds keep the run's own.
    """
    chosen, trials = own, []
    for name in CLEANING_SETTINGS if folds else ():
        values = {value: chosen.having(name, value) for value in own.values_beside(name)}
        trials.append(try_values(scored, name, values, getattr(own, name), folds))
        if trials[-1].taken:
            chosen = chosen.having(name, trials[-1].best)
    return chosen, trials


def cleaned_dice(
    prediction: ImagePrediction,
    truth: Masks,
    ignored: Runs | None,
    cleanings: Sequence[Cleaning],
    grid: Sequence[float],
    never_empty: bool,
) -> np.ndarray:
    """Dice of each class of an image under each cleaning at each threshold: that of the masks of `clean_masks`.

    Components are found once for all least areas, and their pixels within the truth are counted run by run: no mask is
    made of the small ones. What is held are the runs of the thresholds, however many combinations there are.

    Args:
        prediction: Cut at the thresholds and at every seed threshold.
        truth: Its true masks.
        ignored: Pixels that do not count.
        cleanings: What is tried.
        grid: The thresholds.
        never_empty: As `clean_masks`.

    Returns:
        float64 (cleanings, classes, thresholds).
    """
    targets = class_runs(truth)
    dice = np.empty((len(cleanings), len(targets), len(grid)))
    side_um = float(prediction.pixel_size_um or 0) if has_pixel_size(prediction.pixel_size_um) else 0.0
    for column, threshold in enumerate(grid):
        for number, (raw, target) in enumerate(zip(class_runs(prediction.runs[threshold]), targets, strict=True)):
            last_resort = None
            if never_empty and len(targets) == 1:
                last_resort = keep_largest(raw) if len(raw) else prediction.peak
            for places, grown in _grown(raw, prediction, number, cleanings, side_um):
                least_px = [cleanings[place].min_area_um2 / side_um**2 if side_um else 0 for place in places]
                dice[places, number, column] = _dice_by_area(grown, target, ignored, least_px, last_resort)
    return dice


def _grown(
    raw: Runs, prediction: ImagePrediction, number: int, cleanings: Sequence[Cleaning], side_um: float
) -> Iterator[tuple[list[int], Runs]]:
    """A class's mask after hysteresis and filling of holes, with the places of the cleanings that do just that."""
    alike: dict[float, dict[float, list[int]]] = {}
    for place, each in enumerate(cleanings):
        alike.setdefault(each.seed_threshold, {}).setdefault(each.max_hole_um2, []).append(place)
    for seed, by_hole in alike.items():
        seeded = keep_seeded(raw, class_runs(prediction.runs[seed])[number]) if seed > 0 else raw
        for hole_um2, places in by_hole.items():
            fills = hole_um2 > 0 and side_um > 0 and len(seeded) > 0
            yield places, fill_holes(seeded, hole_um2 / side_um**2) if fills else seeded


def _dice_by_area(
    runs: Runs, target: Runs, ignored: Runs | None, least_px: Sequence[float], last_resort: Runs | None
) -> list[float]:
    """Dice of a mask without its components below each area."""
    pieces = split_runs(runs)
    labels = label_runs(pieces)
    areas = component_areas(pieces, labels)[labels]  # of the component of each run
    counted, hits = pieces.lengths, pixels_within(pieces, subtract_runs(target, ignored) if ignored else target)
    if ignored:
        counted = counted - pixels_within(pieces, ignored)
    scores = []
    for least in least_px:
        kept = areas >= least
        total = int(counted[kept].sum()) + target.area
        if last_resort is not None and not kept.any():
            scores.append(runs_dice(subtract_runs(last_resort, ignored) if ignored else last_resort, target))
        else:
            scores.append(2 * int(hits[kept].sum()) / total if total else 1.0)
    return scores
