"""Whether taking labels off the glass around the tissue gains out-of-fold: measured on the raw truth, slide by slide.

Two questions, one answer each. Do *predictions* gain when what lies on glass is taken out of them (`prediction_gain`)?
Does a network gain that was *trained* without such labels (`run_difference` of two runs that differ in
`data.clean_blank` alone)? Both are paired differences, and a gain counts only where its interval over groups lies above
zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tqdm import tqdm

from histofold.competitions.base import Competition
from histofold.competitions.classes import masks_dice
from histofold.core.rle.runs import Masks, class_runs, join_classes
from histofold.data.cleaning import clean_blank_labels
from histofold.imaging.slide import open_slide
from histofold.schema.manifest import look_up_thresholds
from histofold.schema.sample import Sample
from histofold.trust.oof import FoldRun, predict_slide
from histofold.trust.paired import Difference, paired_difference


def cleaning_words(gain: Difference) -> str:
    """The gain of cleaning, with what to do."""
    return f"cleaning: {gain}: {'switch it on' if gain.is_gain else 'leave it off'}"


def cleaning_scores(sample: Sample, prediction: Masks, truth: Masks) -> tuple[float, float]:
    """Dice of a prediction as it is and without what lies on glass, both against the truth as the host gives it.

    Raises:
        ImageError: If the slide cannot be read.
    """
    with open_slide(sample.image_path) as slide:
        cleaned = join_classes([clean_blank_labels(slide, runs) for runs in class_runs(prediction)])
    return masks_dice(prediction, truth), masks_dice(cleaned, truth)


def prediction_gain(
    folds: Sequence[FoldRun],
    held_out: Mapping[int, Sequence[str]],
    competition: Competition,
    samples: Mapping[str, Sample],
    thresholds: Mapping[str, float],
) -> Difference:
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
            cuts = look_up_thresholds(thresholds, sample.organ, sample.source, fold.manifest.classes)
            prediction = predict_slide(fold, competition, sample, cuts)
            before, after = cleaning_scores(sample, prediction, competition.target(sample))
            raw.append(before)
            cleaned.append(after)
            groups.append(sample.group or key)
    return paired_difference(raw, cleaned, groups)
