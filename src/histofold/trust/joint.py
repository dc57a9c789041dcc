"""Several runs of the same folds as one ensemble, out-of-fold: its score, and shares of the runs chosen nested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Masks, RunEncoder, join_classes
from histofold.data.sources import joined_folds
from histofold.imaging.slide import Slide, open_sample
from histofold.predict.image import ImageBands, ImagePrediction, Threshold, aligned_bands, forward_batch
from histofold.predict.postprocess import PeakMap
from histofold.predict.stages import Stage
from histofold.schema.choices import agreed_choices, read_cleaning
from histofold.schema.experiment import JointRuns, joint_folder
from histofold.schema.files import LineJournal, moved_path, write_atomically
from histofold.schema.parse import load_toml, write_json
from histofold.schema.sample import Sample
from histofold.trust.choices import Trial, try_values
from histofold.trust.cleaning import Cleaning, cleaned_dice
from histofold.trust.evaluate import finished_run, log_notes
from histofold.trust.evaluation import FinishedRun
from histofold.trust.intervals import bounds_words, grouped_interval, score_bounds
from histofold.trust.masks import OOF_COLUMNS
from histofold.trust.oof import THRESHOLD_GRID, FoldScores, fold_key, held_out_ids, slide_key

Shares = tuple[float, ...]
"""Part of each run in the average; they sum to 1."""
RATIOS = (1, 2, 4)
"""Runs that are tried with shares of their own weigh so much against each other."""
AGREED = ("competition", "classes", "average", "seed_threshold", "max_hole_um2", "min_area_um2")


@dataclass(frozen=True, kw_only=True)
class JointEvaluation:
    """What an evaluation of an ensemble of runs found."""

    folder: Path
    """Where oof.csv and summary.json lie."""
    summary: dict[str, Any]
    """summary.json."""
    oof: pd.DataFrame
    """oof.csv."""

    def lines(self) -> list[str]:
        """The figures in words; the last one is the score."""
        summary = self.summary
        chance = bounds_words(summary["interval"], f" over {summary['groups']} groups")
        equal = f"with equal shares {summary['dice_of_equal_shares']:.4f}"
        score = f"out-of-fold Dice {summary['dice']:.4f} ({chance})"
        return [*summary["trials"], f"{score} of {len(summary['shares'])} runs together; {equal}"]


def share_candidates(runs: int) -> list[Shares]:
    """Shares that are tried, equal ones first.

    Of two or three runs all ratios of 1, 2 and 4; of more each run in turn with half and with twice the others' share.
    """
    if runs <= 3:
        weights = [tuple(map(float, each)) for each in product(RATIOS, repeat=runs)]
    else:
        turns = product(range(runs), (0.5, 2.0))
        weights = [tuple(other if at == place else 1.0 for at in range(runs)) for place, other in turns]
    equal = (1.0,) * runs
    made = [tuple(round(weight / sum(each), 6) for weight in each) for each in (equal, *weights)]
    return list(dict.fromkeys(made))


def evaluate_joint(path: Path, root: Path | None = None) -> JointEvaluation:
    """Score the runs that a file names as one ensemble, each fold by their networks of that fold, and choose shares.

    Shares other than equal ones are taken where choosing them gains beyond chance (`try_values`). Thresholds are those
    of the ensemble's own probabilities. `package` takes both from what is written beside the runs.

    Args:
        path: As experiments/group_ensemble.toml; without shares, which are chosen here.
        root: The competition folder; None for where the datasets say.

    Raises:
        InputError: As `evaluate_run`; or if the runs do not hold out the same slides in the same folds, differ in what
            an ensemble has but once, or are not of masks averaged as probabilities.
    """
    joint = load_toml(JointRuns, path)
    if joint.shares:
        raise InputError([Fault("shares", str(path), "given, and they are chosen here", "leave them out")])
    found = [finished_run(moved_path(Path(run), path), root) for run in joint.runs]
    for each in found:
        log_notes(each)
    if faults := _misfits(found):
        raise InputError(faults)
    own = found[0].folds[0].manifest
    settings: dict[str, Any] = agreed_choices([read_cleaning(each.run) for each in found])
    cleaning = Cleaning.of(replace(own, **settings))
    candidates = share_candidates(len(found))
    folder = joint_folder(path, found[0].run.parent)
    folder.mkdir(parents=True, exist_ok=True)
    scores = score_together(found, folder, candidates, cleaning)
    scored, facts = scores.scored(), scores.facts
    choosers = scored.folds if len(scored.folds) > 1 else frozenset()
    equal = candidates[0]

    def choose(folds: frozenset[int]) -> tuple[Shares, list[Trial]]:
        if not folds:
            return equal, []
        trial = try_values(scored, "shares", {shares: shares for shares in candidates}, equal, folds)
        return (trial.best if trial.taken else equal), [trial]

    shipped, trials = choose(choosers)
    nested, even = (scored.nested_scores(how) for how in (lambda folds: choose(folds)[0], lambda folds: equal))
    dice = nested.mean(axis=1) if scores.classes else nested
    oof = facts[["id", "fold", "organ", "source"]].assign(dice=dice)[list(OOF_COLUMNS)]
    summary = {
        "metric": "Dice",
        "dice": float(dice.mean()),
        "dice_of_equal_shares": float(even.mean()),
        "interval": score_bounds(grouped_interval(dice, facts["group"].tolist())),
        "groups": int(facts["group"].nunique()),
        "images": len(facts),
        "shares": dict(zip((each.run.name for each in found), shipped, strict=True)),
        "thresholds": scored.thresholds(shipped, choosers),
        "cleaning": settings,
        "trials": [trial.words(_share_words) for trial in trials],
        "runs": {each.run.name: {key: each.facts()[key] for key in ("weights_sha256", "settings")} for each in found},
    }
    write_atomically(folder / "oof.csv", oof.to_csv(index=False, float_format="%.6f"))
    write_json(folder / "summary.json", summary)
    return JointEvaluation(folder=folder, summary=summary, oof=oof)


def _share_words(shares: Shares) -> str:
    return " : ".join(f"{share / min(shares):.3g}" for share in shares)


def _misfits(found: Sequence[FinishedRun]) -> list[Fault]:
    """Why runs are no ensemble that can be scored out-of-fold."""
    first, faults = found[0], []
    held_out = {fold.fold: set(fold.record.dice_by_id) for fold in first.folds}
    for each in found:
        manifest = each.folds[0].manifest
        if each.sources[0].competition.task in ("instances", "volumes") or manifest.average != "probabilities":
            rule = "shares are chosen of masks whose members are averaged as probabilities"
            faults.append(Fault(each.run.name, str(each.run), rule, "package these runs with shares of your own"))
        if {fold.fold: set(fold.record.dice_by_id) for fold in each.folds} != held_out:
            rule = f"it does not hold out the same slides in the same folds as {first.run.name}"
            faults.append(Fault(each.run.name, str(each.run), rule, "train both on one dataset, all folds of each"))
        for name in AGREED:
            if getattr(manifest, name) != getattr(first.folds[0].manifest, name):
                rule = f"it has another {name} than {first.run.name}"
                faults.append(Fault(each.run.name, str(each.run), rule, "train them with the same"))
    return faults


def score_together(
    found: Sequence[FinishedRun], folder: Path, candidates: Sequence[Shares], cleaning: Cleaning
) -> FoldScores[Shares]:
    """Score every held-out slide under each of the shares; kept in oof_scores.jsonl of the folder as they come."""
    first, table = found[0], joined_folds(found[0].sources)
    journal = LineJournal(folder / "oof_scores.jsonl")
    known = {entry["key"]: entry["dice"] for entry in journal.entries if {"key", "dice"} <= entry.keys()}
    settings = json.dumps([candidates, vars(cleaning)])
    facts, dice = [], []
    for numbered in zip(*(each.folds for each in found), strict=True):
        keys, ensembles = [fold_key(fold) for fold in numbered], None
        ids = held_out_ids(numbered[0], table)
        for sample_id in tqdm(ids, desc=f"ensemble, fold {numbered[0].fold}", unit="slide", dynamic_ncols=True):
            sample = first.samples[sample_id]
            slides = [slide_key(fold, key, sample_id) for fold, key in zip(numbered, keys, strict=True)]
            key = json.dumps([sample_id, slides, settings])
            if key not in known:
                ensembles = ensembles or [fold.ensemble() for fold in numbered]
                known[key] = _score_slide(ensembles, first, sample, candidates, cleaning).tolist()
                journal.add({"key": key, "dice": known[key]})
            row = {"id": sample_id, "fold": numbered[0].fold, "organ": sample.organ, "source": sample.source}
            facts.append(row | {"group": first.groups[sample_id]})
            dice.append(known[key])
    classes = numbered[0].manifest.classes
    return FoldScores(pd.DataFrame(facts), candidates, classes if len(classes) > 1 else (), np.array(dice))


def _score_slide(
    ensembles: Sequence[Sequence[Stage]],
    found: FinishedRun,
    sample: Sample,
    candidates: Sequence[Shares],
    cleaning: Cleaning,
) -> np.ndarray:
    """Dice of a slide under each of the shares, each network predicting it once: float64 (shares, classes, T)."""
    target, ignored = found.truth.target(sample), found.truth.ignored(sample)
    cuts = sorted({*THRESHOLD_GRID, *({cleaning.seed_threshold} - {0.0})})
    with open_sample(sample) as slide:
        predictions = joint_predictions(ensembles, slide, sample.pixel_size_um, candidates, cuts)
    never_empty = found.truth.never_empty
    return np.array(
        [cleaned_dice(each, target, ignored, [cleaning], THRESHOLD_GRID, never_empty)[0] for each in predictions]
    )


def joint_predictions(
    ensembles: Sequence[Sequence[Stage]],
    slide: Slide,
    pixel_size_um: float | None,
    candidates: Sequence[Shares],
    cuts: Sequence[float],
) -> list[ImagePrediction]:
    """What ensembles say of a slide together, for each of several shares, each of them predicting it once.

    Args:
        ensembles: Averaged as probabilities.
        slide: The opened slide.
        pixel_size_um: Its pixel size.
        candidates: The shares of the ensembles.
        cuts: The thresholds.
    """
    classes = ensembles[0][0].manifest.classes
    encoders = [{cut: [RunEncoder(slide.shape_hw) for _ in classes] for cut in cuts} for _ in candidates]
    peaks = [PeakMap(slide.shape_hw) for _ in candidates]
    streams = [iter(ImageBands(stages, slide, pixel_size_um, forward_batch)) for stages in ensembles]
    for y, parts in aligned_bands(streams):
        for shares, of_shares, peak in zip(candidates, encoders, peaks, strict=True):
            probs_KHW = sum(np.float32(share) * part for share, part in zip(shares, parts, strict=True))
            assert isinstance(probs_KHW, np.ndarray)
            peak.add(y, probs_KHW[0])
            for cut, of_classes in of_shares.items():
                for probs_HW, encoder in zip(probs_KHW, of_classes, strict=True):
                    encoder.add(probs_HW >= cut)
    predictions = []
    for of_shares, peak in zip(encoders, peaks, strict=True):
        runs: dict[Threshold, Masks] = {
            cut: join_classes([encoder.runs() for encoder in of_classes]) for cut, of_classes in of_shares.items()
        }
        predictions.append(ImagePrediction(slide.shape_hw, runs, peak.runs(slide.shape_hw), pixel_size_um))
    return predictions
