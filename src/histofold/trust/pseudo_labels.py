"""Labels that a run's folds predict of unlabelled images: each fold labels for its own training alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from tqdm import tqdm

from histofold.competitions.base import Competition, image_error_fault
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import class_runs, parse_rle, runs_to_text
from histofold.core.rle.sets import subtract_runs
from histofold.data.contents import measure_contents
from histofold.data.folds import ALWAYS_TRAINED, stratum_names
from histofold.data.leaks import image_stamp
from histofold.data.pseudo import (
    PSEUDO_RECORD,
    LabelConfig,
    LabelMaker,
    MaskLabel,
    PseudoRecord,
    cut_pseudo_tiles,
    label_pixels,
)
from histofold.data.store import DatasetInfo, begin_dataset, dataset_origin, finish_dataset
from histofold.data.tiles.masks import SOFT_LEVELS
from histofold.imaging.slide import open_sample
from histofold.predict.image import predict_image
from histofold.predict.objects.image import predict_detections
from histofold.predict.stages import Stage
from histofold.schema.choices import CHOICES_NAME, CHOSEN_SETTINGS, read_choices
from histofold.schema.files import LineJournal
from histofold.schema.manifest import Manifest, file_sha256, joined_thresholds, look_up_threshold
from histofold.schema.parse import plain, read_json, write_json
from histofold.schema.sample import Sample
from histofold.trust.oof import FoldRun, evaluated_folds, run_experiment, run_thresholds, stages_together

LABEL_JOURNAL = "pseudo_labels.jsonl"


@dataclass(frozen=True, kw_only=True)
class PseudoDataset:
    """A dataset of predicted labels: what its report shows."""

    folder: Path
    """Where it lies."""
    record: PseudoRecord
    """Where its labels come from."""
    folds: pd.DataFrame
    """folds.csv."""
    index: pd.DataFrame
    """index.csv."""
    unsure: int
    """Tiles of all folds that were left out by their certainty."""


def build_pseudo_dataset(
    root: Path,
    competition: Competition,
    runs: Sequence[Path],
    out: Path,
    workers: int,
    labels: LabelConfig | None = None,
) -> PseudoDataset:
    """Write a dataset of unlabelled images, labelled once for each finished fold of a run, or of several together.

    The labels for fold k come from the networks of fold k alone, which have not seen that fold's validation images, and
    only training of fold k reads them. Scale and tiles are the first run's, thresholds the mean of theirs. These were
    chosen on all folds: a handful of numbers, and no pixel, of fold k's validation images reaches its labels. An image
    on which nothing passes the threshold has an empty label. Of a run of objects labels are the objects that its
    evaluation shows: those of the least score that is chosen there.

    Args:
        root: The folder of unlabelled images.
        competition: Its adapter; the images are those of its test split.
        runs: The evaluated runs, runs/E, of the same folds.
        out: Where to write.
        workers: Processes that cut tiles.
        labels: What labels of masks are like; None: masks of which every pixel counts.

    Returns:
        The dataset, for its report.

    Raises:
        InputError: If a run is not evaluated, runs do not go together, or images cannot be read.
    """
    run, labels = runs[0], labels or LabelConfig()
    if (out / "dataset.json").is_file() and not (out / PSEUDO_RECORD).is_file():
        raise InputError([Fault(out.name, str(out), "holds a dataset of people's labels", "give another --out")])
    makers, experiment = [evaluated_folds(each) for each in runs], run_experiment(run)
    folds = makers[0]
    of_objects = folds[0].manifest.objects is not None
    if of_objects != (competition.task == "instances"):
        rule = f"it predicts {'objects' if of_objects else 'masks'}, and {competition.name} is of {competition.task}"
        raise InputError([Fault(run.name, str(run), rule, "take a run of the same task")])
    if of_objects and (len(runs) > 1 or labels != LabelConfig()):
        rule = "several runs, soft labels and what is left out as unsure are for masks, and it predicts objects"
        raise InputError([Fault(run.name, str(run), rule, "give one run, and leave these options out")])
    record = pseudo_record(runs, makers, labels)
    samples = _readable_samples(competition.samples(root, "test"))
    out.mkdir(parents=True, exist_ok=True)
    journal = LineJournal(out / LABEL_JOURNAL)
    choices = read_choices(run / CHOICES_NAME, CHOSEN_SETTINGS) if of_objects else {}
    together = zip(*makers, strict=True)
    made = {alike[0].fold: predict_labels(alike, record, samples, journal, choices) for alike in together}
    table = _folds_table(samples, made)
    begin_dataset(out, table)
    write_json(out / PSEUDO_RECORD, record)
    cut = cut_pseudo_tiles(samples, made, experiment, out, workers, labels)
    info = DatasetInfo(
        competition=competition.name,
        **dataset_origin(root, out, measure_contents(samples, lambda sample: "")),
        preprocessing=experiment.preprocessing,
        tiles=experiment.tiles,
        classes=competition.classes if of_objects else folds[0].manifest.classes,
        task=competition.task,
        mean=cut.mean,
        std=cut.std,
    )
    finish_dataset(out, cut.index, info)
    return PseudoDataset(folder=out, record=record, folds=table, index=cut.index, unsure=cut.unsure)


def pseudo_record(
    runs: Sequence[Path], makers: Sequence[Sequence[FoldRun]], labels: LabelConfig | None = None
) -> PseudoRecord:
    """What pseudo.json will say of the networks of runs.

    Args:
        runs: The runs.
        makers: The finished folds of each.
        labels: What labels of masks are like.

    Raises:
        InputError: If a run was not evaluated, has several classes, or does not go together with the first one.
    """
    run, folds = runs[0], makers[0]
    classes, of_objects = folds[0].manifest.classes, folds[0].manifest.objects is not None
    if len(classes) > 1 and not of_objects:
        rule = f"labels are predicted of one class, and it has {', '.join(classes)}"
        raise InputError([Fault(run.name, str(run), rule, "take a run of one class")])
    if faults := _misfits(runs, makers):
        raise InputError(faults)
    thresholds = joined_thresholds([run_thresholds(each) for each in runs])
    if of_objects:
        thresholds = {"default": float(read_json(run / "summary.json", f"evaluate {run} again")["shown_score"])}
    by_fold = {}
    for alike in zip(*makers, strict=True):
        seen: dict[str, str] = {}
        for fold in alike:
            seen |= fold.record.trained_on
        by_fold[str(alike[0].fold)] = LabelMaker(
            weights_sha256=" ".join(file_sha256(fold.folder / "model.safetensors") for fold in alike),
            competition=alike[0].record.competition,
            trained_on=seen,
        )
    names = " ".join(map(str, runs))
    return PseudoRecord(run=names, thresholds=thresholds, makers=by_fold, labels=labels or LabelConfig())


def _misfits(runs: Sequence[Path], makers: Sequence[Sequence[FoldRun]]) -> list[Fault]:
    """Runs that do not label together with the first one."""
    faults = []
    first = makers[0]
    for run, folds in zip(runs[1:], makers[1:], strict=True):
        if [fold.fold for fold in folds] != [fold.fold for fold in first]:
            rule = f"it has other folds than {runs[0].name}"
            faults.append(Fault(run.name, str(run), rule, "train the same folds of both"))
        if folds[0].record.competition != first[0].record.competition:
            rule = f"it is of another competition than {runs[0].name}: its images have other ids"
            faults.append(Fault(run.name, str(run), rule, "label with runs of one competition"))
        for name in ("classes", "average", "objects"):
            if getattr(folds[0].manifest, name) != getattr(first[0].manifest, name):
                rule = f"it has another {name} than {runs[0].name}"
                faults.append(Fault(run.name, str(run), rule, "train both with the same"))
    return faults


def _readable_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, once every header was read: hours of prediction must not end at the last one."""
    faults = []
    for sample in samples:
        try:
            open_sample(sample).close()
        except ImageError as error:
            faults.append(image_error_fault(sample.id, sample.image_path, error))
    if faults:
        raise InputError(faults)
    return list(samples)


def predict_labels(
    makers: Sequence[FoldRun],
    record: PseudoRecord,
    samples: Sequence[Sample],
    journal: LineJournal,
    choices: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, MaskLabel | Objects]:
    """The label of each image by the networks of one fold; those of the journal are not predicted again.

    Args:
        makers: The fold of each run.
        record: Their thresholds, and what they have seen.
        samples: The images.
        journal: What was predicted before.
        choices: Settings of objects that the evaluation chose instead of the run's own.

    Raises:
        InputError: With every image that cannot be decoded.
    """
    if choices:
        makers = [replace(fold, manifest=_with_objects(fold.manifest, choices)) for fold in makers]
    number, ensemble = makers[0].fold, None
    maker, manifests = record.makers[str(number)], [plain(fold.manifest) for fold in makers]
    # Which tiles are left out asks for probabilities, and for nothing else that is predicted.
    asked = {"soft": record.labels.keeps_levels, "unsure": record.labels.unsure}
    settings = json.dumps([maker.weights_sha256, manifests, asked], sort_keys=True)
    known = {entry["key"]: entry for entry in journal.entries if {"key", "rle", "shape_hw"} <= entry.keys()}
    labels: dict[str, MaskLabel | Objects] = {}
    faults = []
    for sample in tqdm(samples, desc=f"labels of fold {number}", unit="image", dynamic_ncols=True):
        threshold = look_up_threshold(record.thresholds, sample.organ, sample.source)
        key = json.dumps([settings, threshold, sample.pixel_size_um, image_stamp(sample.image_path)])
        if key in known:
            labels[sample.id] = _kept_label(known[key])
        else:
            ensemble = ensemble or stages_together(makers)
            try:
                labels[sample.id] = _predicted_label(ensemble, sample, threshold, record.labels)
            except ImageError as error:
                faults.append(image_error_fault(sample.id, sample.image_path, error))
                continue
            entry = {"key": key, "id": sample.id, "fold": number}  # id and fold are for people to read
            journal.add({**entry, **_as_plain(labels[sample.id])})
    if faults:
        raise InputError(faults)
    return labels


def _with_objects(manifest: Manifest, choices: Mapping[str, Any]) -> Manifest:
    """A manifest of objects with what an evaluation chose."""
    assert manifest.objects is not None
    return replace(manifest, objects=replace(manifest.objects, **choices))


def _predicted_label(
    ensemble: Sequence[Stage], sample: Sample, threshold: float, wanted: LabelConfig
) -> MaskLabel | Objects:
    """The mask of an image at a threshold; of networks of objects those of at least this score."""
    manifest = ensemble[0].manifest
    with open_sample(sample) as slide:
        if manifest.objects is not None:
            found = predict_detections(ensemble, slide, sample.pixel_size_um)
            return found.select(found.scores >= threshold).objects
        levels = [(step + 0.5) / SOFT_LEVELS for step in range(SOFT_LEVELS)] if wanted.keeps_levels else []
        cuts = list(dict.fromkeys([threshold, *levels, *wanted.unsure]))
        prediction = predict_image(ensemble, slide, sample.pixel_size_um, cuts)
    found_at = {cut: class_runs(prediction.runs[cut])[0] for cut in cuts}
    return MaskLabel(
        class_runs(prediction.masks(threshold, manifest, never_empty=False))[0],
        tuple(found_at[level] for level in levels),
        subtract_runs(found_at[wanted.unsure[0]], found_at[wanted.unsure[1]]) if wanted.unsure else None,
    )


def _as_plain(label: MaskLabel | Objects) -> dict[str, Any]:
    """A label as a line of the journal holds it."""
    if isinstance(label, Objects):
        return {"shape_hw": label.shape_hw, "rle": [runs_to_text(one) for one in label]}
    entry = {"shape_hw": label.mask.shape_hw, "rle": runs_to_text(label.mask)}
    if label.levels:
        entry["levels"] = [runs_to_text(level) for level in label.levels]
    return entry if label.unsure is None else {**entry, "unsure": runs_to_text(label.unsure)}


def _kept_label(entry: Mapping[str, Any]) -> MaskLabel | Objects:
    """A label of the journal: one text of a mask and what stands beside it, or a list of texts of objects."""
    height, width = entry["shape_hw"]
    read = partial(parse_rle, shape_hw=(height, width))
    if isinstance(entry["rle"], str):
        unsure = read(entry["unsure"]) if "unsure" in entry else None
        return MaskLabel(read(entry["rle"]), tuple(map(read, entry.get("levels", ()))), unsure)
    return Objects.from_runs([read(text) for text in entry["rle"]], (height, width))


def _folds_table(samples: Sequence[Sample], labels: Mapping[int, Mapping[str, MaskLabel | Objects]]) -> pd.DataFrame:
    """folds.csv: every image is always trained on, its stratum by the mean fraction over its labels."""
    fractions = _mean_fractions(labels)
    columns = {"id": list(fractions), "group": [sample.group or sample.id for sample in samples]}
    return pd.DataFrame({**columns, "stratum": stratum_names(samples, fractions), "fold": ALWAYS_TRAINED})


def _mean_fractions(labels: Mapping[int, Mapping[str, MaskLabel | Objects]]) -> dict[str, float]:
    """Mask fraction of each image, the mean over its labels."""
    first = next(iter(labels.values()))
    return {
        key: sum(label_pixels(each[key]).area for each in labels.values())
        / len(labels)
        / math.prod(label_pixels(label).shape_hw)
        for key, label in first.items()
    }
