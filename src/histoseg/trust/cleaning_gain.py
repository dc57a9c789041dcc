"""Whether taking labels off the glass around the tissue gains out-of-fold: measured on the raw truth, slide by slide.

Two questions, one answer each. Do *predictions* gain when what lies on glass is taken out of them (`prediction_gain`)?
Does a network gain that was *trained* without such labels (`run_gain`, of two runs that differ in `data.clean_blank`
alone)? Both are paired differences, and a gain counts only where its interval over groups lies above zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from histoseg.competitions.base import Competition, read_table, runs_dice
from histoseg.core.faults import Fault, InputError
from histoseg.core.rle import Runs
from histoseg.data.cleaning import clean_blank_labels
from histoseg.imaging.slide import open_slide
from histoseg.schema.manifest import look_up_threshold
from histoseg.schema.sample import Sample
from histoseg.trust.oof import FoldRun, grouped_interval, predict_slide

GAIN_COLUMNS = ("id", "dice")


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A paired difference of out-of-fold scores.

    Attributes:
        raw: Mean Dice without cleaning.
        cleaned: Mean Dice with it.
        interval: 95% interval of the mean difference, by the bootstrap over groups.
        images: How many slides were compared.
        changed: Of how many the score differs.
    """

    raw: float
    cleaned: float
    interval: tuple[float, float]
    images: int
    changed: int

    @property
    def worth_it(self) -> bool:
        """Whether cleaning gains beyond chance: the whole interval lies above zero."""
        return self.interval[0] > 0

    def __str__(self) -> str:
        """In words."""
        low, high = self.interval
        verdict = "switch it on" if self.worth_it else "leave it off"
        difference = f"{self.cleaned - self.raw:+.4f} (95% {low:+.4f} to {high:+.4f})"
        return f"cleaning: Dice {self.raw:.4f} to {self.cleaned:.4f}, {difference} on {self.images} slides: {verdict}"


def paired_gain(raw: Sequence[float], cleaned: Sequence[float], groups: Sequence[str]) -> Gain:
    """The gain of one set of scores over another of the same slides.

    Args:
        raw: Dice of each slide without cleaning.
        cleaned: Dice with it, in the same order.
        groups: Group of each slide.

    Raises:
        ValueError: If the lengths differ or there are no slides.
    """
    if not len(raw) == len(cleaned) == len(groups) or not len(raw):
        counts = f"{len(raw)} raw and {len(cleaned)} cleaned scores of {len(groups)} slides"
        raise ValueError(f"{counts}: give one of each for every slide, and at least one slide")
    differences = np.subtract(cleaned, raw)
    return Gain(
        raw=float(np.mean(raw)),
        cleaned=float(np.mean(cleaned)),
        interval=grouped_interval(differences, groups),
        images=len(raw),
        changed=int((differences != 0).sum()),
    )


def cleaning_scores(sample: Sample, prediction: Runs, truth: Runs) -> tuple[float, float]:
    """Dice of a prediction as it is and without what lies on glass, both against the truth as the host gives it.

    Raises:
        ImageError: If the slide cannot be read.
    """
    with open_slide(sample.image_path) as slide:
        cleaned = clean_blank_labels(slide, prediction)
    return runs_dice(prediction, truth), runs_dice(cleaned, truth)


def prediction_gain(
    folds: Sequence[FoldRun],
    held_out: Mapping[int, Sequence[str]],
    competition: Competition,
    samples: Mapping[str, Sample],
    thresholds: Mapping[str, float],
) -> Gain:
    """What cleaning gains the predictions of a run, each slide predicted by the fold that never saw it.

    Args:
        folds: The finished folds.
        held_out: Ids that each fold was not trained on.
        competition: The adapter that gave the samples.
        samples: By id.
        thresholds: As thresholds.json holds them.
    """
    raw, cleaned, groups = [], [], []
    for fold in folds:
        for key in tqdm(held_out[fold.fold], desc=f"fold {fold.fold}", unit="slide", dynamic_ncols=True):
            sample = samples[key]
            threshold = look_up_threshold(thresholds, sample.organ, sample.source)
            prediction = predict_slide(fold, competition, sample, threshold)
            before, after = cleaning_scores(sample, prediction, competition.target(sample))
            raw.append(before)
            cleaned.append(after)
            groups.append(sample.group or key)
    return paired_gain(raw, cleaned, groups)


def run_gain(raw_run: Path, cleaned_run: Path, samples: Mapping[str, Sample]) -> Gain:
    """What training without labels on glass gains: two evaluated runs that differ in `data.clean_blank` alone.

    Both were scored on the raw truth, so that their oof.csv can be held against each other.

    Args:
        raw_run: runs/E of the raw labels.
        cleaned_run: runs/E of the cleaned ones.
        samples: By id, for the groups.

    Raises:
        InputError: If an oof.csv is missing or they hold different slides.
    """
    tables = [
        read_table(run / "oof.csv", GAIN_COLUMNS).set_index("id")["dice"].astype(float)
        for run in (raw_run, cleaned_run)
    ]
    if set(tables[0].index) != set(tables[1].index):
        rule = f"it scores other slides than {raw_run / 'oof.csv'}"
        raise InputError([Fault("oof", str(cleaned_run / "oof.csv"), rule, "evaluate both runs on the same folds")])
    ids = list(tables[0].index)
    groups = [samples[key].group or key for key in ids]
    return paired_gain(tables[0].tolist(), tables[1].loc[ids].tolist(), groups)
