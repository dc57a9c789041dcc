"""The finished folds of a run, and their out-of-fold scores through the kernel's own predict code."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from histofold.competitions.base import ObjectCompetition, Truth, masks_dice
from histofold.competitions.hidden import hidden_shift
from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.objects.morphology import mask_components
from histofold.core.rle.runs import Masks, Runs, class_runs, join_classes
from histofold.core.rle.sets import without_runs
from histofold.data.sources import JoinedTruth, Source, joined_folds, joined_groups, joined_samples
from histofold.imaging.shift import Shift, shifted_sample
from histofold.imaging.slide import open_sample
from histofold.models.build import broken_tensors
from histofold.models.folding import ready_to_predict
from histofold.models.instances.build import build_network
from histofold.models.sam.load import load_sam
from histofold.models.sam.network import Sam
from histofold.predict.devices import best_device, best_precision
from histofold.predict.image import ImagePrediction, StageForward, forward_batch, predict_image
from histofold.predict.postprocess import clean_masks
from histofold.predict.prompts import PromptedSlides, scaled_prompts, truth_prompts
from histofold.predict.stages import Networks, Stage, build_stages
from histofold.schema.choices import read_cleaning
from histofold.schema.experiment import Experiment, with_moved_data
from histofold.schema.files import LineJournal, weights_rule
from histofold.schema.manifest import Manifest, file_sha256, read_thresholds
from histofold.schema.parse import load_toml, parse_dataclass, plain
from histofold.schema.prediction import PredictConfig
from histofold.schema.run_record import (
    RECORD_NAME,
    RunRecord,
    file_settings_sha256,
    finished_records,
    read_record,
    with_datasets_beside,
)
from histofold.schema.sam import SAM, SamConfig
from histofold.schema.sample import Sample
from histofold.trust.choices import Candidate, ScoredCandidates
from histofold.trust.cleaning import Cleaning, all_cleanings, cleaned_dice
from histofold.trust.scored import PROBABILITY_CUTS, ScoredSlide, scored_slide
from histofold.trust.thresholds import THRESHOLD_GRID, score_column


@dataclass(frozen=True)
class FoldRun:
    """A finished fold of a run."""

    fold: int
    folder: Path
    manifest: Manifest
    record: RunRecord

    @cached_property
    def sam(self) -> SamConfig | None:
        """How Segment Anything is asked; None of any other network."""
        if self.record.architecture != SAM:
            return None
        return parse_dataclass(SamConfig, self.record.arguments["sam"], str(self.folder / RECORD_NAME))

    def ensemble(self) -> list[Stage]:
        """Its averaged weights as an ensemble of one."""
        return stages_together([self])

    def network(self) -> torch.nn.Module:
        """Its averaged weights, in evaluation mode, where they are predicted with."""
        path = self.folder / "model.safetensors"
        if rule := weights_rule(path):
            remedy = "copy the run again, or let `histofold train E.toml --resume` write it"
            raise InputError([Fault(self.folder.name, str(path), rule, remedy)])
        if self.sam is not None:
            sam = Sam(load_sam(self.folder), self.sam, self.manifest.objects is not None)
            return sam.eval().to(best_device()).to(memory_format=torch.channels_last)
        model = build_network(self.record.architecture, self.record.arguments)
        state = load_file(path)
        if broken := broken_tensors(state):
            rule = f"its weights are no finite numbers ({listed_ids(broken, 3)})"
            raise InputError([Fault(self.folder.name, str(path), rule, "remove the folder and train the fold anew")])
        model.load_state_dict(state)
        return ready_to_predict(model, best_device(), self.manifest.preprocessing.slices)

    def prompted(self, truth: Truth, samples: Sequence[Sample]) -> PromptedSlides | None:
        """What asks Segment Anything of slides in their order, where it is told where the truth is; else None."""
        if self.sam is None or self.sam.prompts == "grid":
            return None
        kind, preprocessing = self.sam.prompts, self.manifest.preprocessing

        def asked(sample: Sample) -> np.ndarray:
            if self.manifest.objects is not None:
                objects = cast(ObjectCompetition, truth).objects(sample)
            else:
                objects = mask_components(class_runs(truth.target(sample))[0])
            prompts_MK = truth_prompts(objects, kind)
            return scaled_prompts(prompts_MK, objects.shape_hw, sample.pixel_size_um, sample.organ, preprocessing)

        return PromptedSlides(map(asked, samples), self.manifest.objects is not None)

    def forward(self, truth: Truth, samples: Sequence[Sample]) -> StageForward:
        """How batches of slides go through the network, in the order of the slides."""
        prompted = self.prompted(truth, samples)
        return forward_batch if prompted is None else prompted.forward


def stages_together(folds: Sequence[FoldRun]) -> list[Stage]:
    """The networks of folds of several runs as one ensemble in which each counts alike."""
    device = best_device()
    networks = Networks([fold.network() for fold in folds], device, best_precision(device))
    return build_stages([networks], [(fold.manifest, 1.0) for fold in folds])


def finished_folds(run: Path) -> list[FoldRun]:
    """The finished folds of runs/E.

    Raises:
        InputError: If there is none, a record cannot be read, or a fold was an overfitting check.
    """
    folds = [FoldRun(record.fold, folder, record.manifest, record) for folder, record in finished_records(run).items()]
    return sorted(folds, key=lambda fold: fold.fold)


def evaluated_folds(run: Path) -> list[FoldRun]:
    """The finished folds of an evaluated run, which clean masks as its evaluation chose.

    Raises:
        InputError: As `finished_folds`, or if the choice was cut short.
    """
    settings: dict[str, Any] = dict(read_cleaning(run))
    return [replace(fold, manifest=replace(fold.manifest, **settings)) for fold in finished_folds(run)]


def run_experiment(run: Path) -> Experiment:
    """The experiment of a run, as its first fold recorded it, its datasets where they lie now.

    Raises:
        InputError: If it is missing, or is not what the run wrote.
    """
    paths = sorted(run.glob("fold*/experiment.toml"))
    if not paths:
        rule, remedy = "no fold has an experiment.toml", "copy the run again, or train it anew"
        raise InputError([Fault(run.name, str(run), rule, remedy)])
    experiment = load_toml(Experiment, paths[0])
    folder = paths[0].parent
    record = read_record(folder) if (folder / RECORD_NAME).is_file() else None
    if record is not None and record.settings_sha256 not in ("", file_settings_sha256(paths[0])):
        rule = "not what the run wrote: it was changed or cut short"
        remedy = "copy the run again, or let `histofold train E.toml --resume` write it"
        raise InputError([Fault(run.name, str(paths[0]), rule, remedy)])
    experiment = with_datasets_beside(experiment, folder, record.datasets if record is not None else ())
    return with_moved_data(experiment, paths[0])


def run_thresholds(run: Path) -> dict[str, float]:
    """The thresholds that an evaluation chose, by the keys of a manifest.

    Raises:
        InputError: If the run was not evaluated.
    """
    path = run / "thresholds.json"
    if not path.is_file():
        raise InputError([Fault(run.name, str(path), "no thresholds", f"run `histofold evaluate {run}` first")])
    return read_thresholds(path)


@dataclass(frozen=True)
class FoldScores(Generic[Candidate]):
    """Dice of every held-out slide under each of several settings at every threshold of the grid."""

    facts: pd.DataFrame
    """id, fold, organ, source, group (as `joined_groups` gives it), everything and nothing (Dice of a mask of all
    pixels and of none)."""
    candidates: Sequence[Candidate]
    """The settings, the run's own first."""
    classes: tuple[str, ...]
    """Names of the classes where there are several."""
    dice: np.ndarray
    """float64 (slides, candidates, classes, thresholds)."""
    slides: dict[str, ScoredSlide] = field(default_factory=dict)
    """What else is kept of each slide, by id, under the run's own settings; nothing of shifted ones."""

    def scored(self) -> ScoredCandidates[Candidate]:
        """All of it, to choose by."""
        return ScoredCandidates(self.tables(), THRESHOLD_GRID, self.classes)

    def tables(self) -> dict[Candidate, pd.DataFrame]:
        """The table of each of the settings."""
        return {each: self.table(each) for each in self.candidates}

    def table(self, candidate: Candidate) -> pd.DataFrame:
        """The facts and the scores under one of the settings: a column of the mean over classes for each threshold.

        These have float names; where there are several classes, then one follows for each class and threshold, as
        `score_column` names them.
        """
        dice_NKT = self.dice[:, self.candidates.index(candidate)]
        names = [score_column(name, t) for name in self.classes for t in THRESHOLD_GRID]
        columns = [*THRESHOLD_GRID, *names]
        values = [dice_NKT.mean(axis=1), *(dice_NKT[:, place] for place in range(len(self.classes)))]
        return pd.concat([self.facts, pd.DataFrame(np.concatenate(values, axis=1), columns=columns)], axis=1)


def score_folds(
    run: Path, folds: Sequence[FoldRun], sources: Sequence[Source], stain: str = ""
) -> FoldScores[Cleaning]:
    """Score every held-out slide of the run's datasets under all combinations of cleaning.

    Scores are kept in runs/E/oof_scores.jsonl as they come, so that an interrupted evaluation goes on.

    Args:
        run: runs/E.
        folds: Its finished folds.
        sources: Its datasets.
        stain: Of `histofold.imaging.shift.STAINS`: slides are shown so, as the hidden set would. Empty: as they are.
    """
    table, truth, samples = joined_folds(sources), JoinedTruth(sources), joined_samples(sources)
    groups, classes = joined_groups(sources), folds[0].manifest.classes
    cleanings = all_cleanings(Cleaning.of(folds[0].manifest))
    tried = [list(asdict(each).values()) for each in cleanings]
    journal = LineJournal(run / "oof_scores.jsonl")
    known = {(e["key"], e["id"]): e for e in journal.entries if "scores" in e and e.get("cleanings") == tried}
    facts, dice = [], []
    slides: dict[str, ScoredSlide] = {}
    for fold in folds:
        weights_key = fold_key(fold)
        ids = held_out_ids(fold, table)
        ensemble = None
        words = f"out-of-fold {fold.fold}{stain and f' in {stain}'}"
        for sample_id in tqdm(ids, desc=words, unit="slide", dynamic_ncols=True):
            sample = samples[sample_id]
            shift = hidden_shift(stain, sources[0].competition.name, sample) if stain else None
            key = slide_key(fold, weights_key, sample_id)
            if shift is not None:
                key += f" {json.dumps(plain(shift), sort_keys=True)}"
            entry = known.get((key, sample_id), {})
            kept = kept_slides([entry["slide"]] if "slide" in entry else [], journal.path)
            slide = kept[0] if kept else None
            if not entry or (slide is None and not stain):
                ensemble = ensemble or fold.ensemble()
                scores, slide = score_slide(ensemble, truth, sample, cleanings, shift, fold.forward(truth, [sample]))
                entry = {"key": key, "id": sample_id, "cleanings": tried, "scores": scores.tolist()}
                entry |= {} if slide is None else {"slide": plain(slide)}
                journal.add(entry)
            if slide is not None:
                slides[sample_id] = slide
            row = {"id": sample.id, "fold": fold.fold, "organ": sample.organ, "source": sample.source}
            peers = {"everything": everything_dice(truth, sample), "nothing": nothing_dice(truth, sample)}
            facts.append(row | {"group": groups[sample_id], **peers})
            dice.append(entry["scores"])
    return FoldScores(pd.DataFrame(facts), cleanings, classes if len(classes) > 1 else (), np.array(dice), slides)


def kept_slides(values: Sequence[Any], path: Path) -> list[ScoredSlide]:
    """Slides as a journal holds them; none at all where one was written by another version."""
    try:
        return [parse_dataclass(ScoredSlide, value, str(path)) for value in values]
    except InputError:
        return []


def held_out_ids(fold: FoldRun, table: pd.DataFrame) -> list[str]:
    """The slides that the fold was not trained on.

    Raises:
        InputError: If folds.csv was changed since: the model would be scored on slides that it was trained on.
    """
    ids = table.loc[table["fold"] == fold.fold, "id"].tolist()
    if set(ids) != set(fold.record.dice_by_id):
        rule = f"folds.csv now holds out other slides than fold {fold.fold} was trained without"
        raise InputError([Fault(f"fold {fold.fold}", str(fold.folder), rule, "train it anew, or undo the change")])
    return ids


def fold_key(fold: FoldRun) -> str:
    """Identifies weights and prediction settings: scores of another key are not reused."""
    settings = json.dumps(plain(fold.manifest), sort_keys=True)
    asked = json.dumps(plain(fold.sam), sort_keys=True) if fold.sam else ""  # the same weights, asked otherwise
    return file_sha256(fold.folder / "model.safetensors")[:16] + settings + asked


def slide_key(fold: FoldRun, weights_key: str, sample_id: str) -> str:
    """The same with the slide's pixels and mask: a mended mask is scored anew by the same weights."""
    inputs = fold.record.inputs
    return " ".join(
        [weights_key, *(inputs[key] for kind in ("pixels", "mask") if (key := f"{kind} {sample_id}") in inputs)]
    )


def score_slide(
    ensemble: Sequence[Stage],
    truth: Truth,
    sample: Sample,
    cleanings: Sequence[Cleaning],
    shift: Shift | None = None,
    forward: StageForward = forward_batch,
) -> tuple[np.ndarray, ScoredSlide | None]:
    """One slide, shifted where that is wanted.

    Returns:
        (dice, slide): Dice, float64 (cleanings, classes, thresholds of the grid); and what else is kept of the slide
        under the first of the cleanings, None where it is shifted.
    """
    started = time.perf_counter()
    seeds = {each.seed_threshold for each in cleanings} - {0.0}
    with open_sample(sample if shift is None else shifted_sample(sample, shift)) as slide:
        cuts = sorted({*PROBABILITY_CUTS, *seeds})
        prediction = predict_image(ensemble, slide, sample.pixel_size_um, cuts, forward)
    seconds = time.perf_counter() - started
    target, ignored = truth.target(sample), truth.ignored(sample)
    dice = cleaned_dice(prediction, target, ignored, cleanings, THRESHOLD_GRID, truth.never_empty)
    if shift is not None:
        return dice, None
    cleaned = [_own_masks(prediction, cut, cleanings[0], truth.never_empty) for cut in THRESHOLD_GRID]
    raw = [prediction.runs[cut] for cut in PROBABILITY_CUTS]
    return dice, scored_slide(raw, cleaned, target, ignored, seconds=seconds)


def _own_masks(prediction: ImagePrediction, cut: float, own: Cleaning, never_empty: bool) -> Masks:
    """The masks of an image at a threshold, cleaned."""
    seeds = prediction.runs[own.seed_threshold] if own.seed_threshold > 0 else None
    settings = PredictConfig(max_hole_um2=own.max_hole_um2, min_area_um2=own.min_area_um2)
    return clean_masks(prediction.runs[cut], seeds, prediction.peak, settings, prediction.pixel_size_um, never_empty)


def everything_dice(truth: Truth, sample: Sample) -> float:
    """Dice of a mask of the whole image, the mean over its classes: what a score must beat to mean anything."""
    target = truth.target(sample)
    wholes = [
        Runs(np.zeros(1, np.int64), np.array([math.prod(runs.shape_hw)]), runs.shape_hw, runs.order)
        for runs in class_runs(target)
    ]
    return masks_dice(without_runs(join_classes(wholes), truth.ignored(sample)), target)


def nothing_dice(truth: Truth, sample: Sample) -> float:
    """Dice of an empty mask, the mean over its classes: 1 for each class that is not there."""
    absent = [runs.area == 0 for runs in class_runs(truth.target(sample))]
    return sum(absent) / len(absent)
