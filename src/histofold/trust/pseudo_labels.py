"""Labels that a run's folds predict of unlabelled images: each fold labels for its own training alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from tqdm import tqdm

from histofold.competitions.base import Competition, image_error_fault
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Runs, class_runs, parse_rle, runs_to_text
from histofold.data.contents import measure_contents
from histofold.data.folds import ALWAYS_TRAINED, stratum_names
from histofold.data.leaks import image_stamp
from histofold.data.pseudo import PSEUDO_RECORD, LabelMaker, PseudoRecord, cut_pseudo_tiles, label_pixels
from histofold.data.store import DatasetInfo, begin_dataset, dataset_origin, finish_dataset
from histofold.imaging.slide import open_sample
from histofold.predict.image import predict_masks
from histofold.predict.objects.image import predict_detections
from histofold.predict.stages import Stage
from histofold.schema.choices import CHOICES_NAME, CHOSEN_SETTINGS, read_choices
from histofold.schema.files import LineJournal
from histofold.schema.manifest import file_sha256, look_up_threshold
from histofold.schema.parse import plain, read_json, write_json
from histofold.schema.sample import Sample
from histofold.trust.oof import FoldRun, evaluated_folds, run_experiment, run_thresholds

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


def build_pseudo_dataset(root: Path, competition: Competition, run: Path, out: Path, workers: int) -> PseudoDataset:
    """Write a dataset of unlabelled images, labelled once for each finished fold of a run.

    The labels for fold k come from the network of fold k alone, which has not seen that fold's validation images, and
    only training of fold k reads them. Scale, tiles and thresholds are the run's own. The thresholds were chosen on
    all folds: a handful of numbers, and no pixel, of fold k's validation images reaches its labels. An image on which
    nothing passes the threshold has an empty label. Of a run of objects labels are the objects that its evaluation
    shows: those of the least score that is chosen there.

    Args:
        root: The folder of unlabelled images.
        competition: Its adapter; the images are those of its test split.
        run: The evaluated run, runs/E.
        out: Where to write.
        workers: Processes that cut tiles.

    Returns:
        The dataset, for its report.

    Raises:
        InputError: If the run is not evaluated, or images cannot be read.
    """
    if (out / "dataset.json").is_file() and not (out / PSEUDO_RECORD).is_file():
        raise InputError([Fault(out.name, str(out), "holds a dataset of people's labels", "give another --out")])
    folds, experiment = evaluated_folds(run), run_experiment(run)
    of_objects = folds[0].manifest.objects is not None
    if of_objects != (competition.task == "instances"):
        rule = f"it predicts {'objects' if of_objects else 'masks'}, and {competition.name} is of {competition.task}"
        raise InputError([Fault(run.name, str(run), rule, "take a run of the same task")])
    record = pseudo_record(run, folds)
    samples = _readable_samples(competition.samples(root, "test"))
    out.mkdir(parents=True, exist_ok=True)
    journal = LineJournal(out / LABEL_JOURNAL)
    choices = read_choices(run / CHOICES_NAME, CHOSEN_SETTINGS) if of_objects else {}
    labels = {fold.fold: predict_labels(fold, record, samples, journal, choices) for fold in folds}
    table = _folds_table(samples, labels)
    begin_dataset(out, table)
    write_json(out / PSEUDO_RECORD, record)
    cut = cut_pseudo_tiles(samples, labels, experiment, out, workers)
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
    return PseudoDataset(folder=out, record=record, folds=table, index=cut.index)


def pseudo_record(run: Path, folds: Sequence[FoldRun]) -> PseudoRecord:
    """What pseudo.json will say of the networks of a run.

    Raises:
        InputError: If the run was not evaluated, or has several classes.
    """
    classes, of_objects = folds[0].manifest.classes, folds[0].manifest.objects is not None
    if len(classes) > 1 and not of_objects:
        rule = f"labels are predicted of one class, and it has {', '.join(classes)}"
        raise InputError([Fault(run.name, str(run), rule, "take a run of one class")])
    thresholds = run_thresholds(run)
    if of_objects:
        thresholds = {"default": float(read_json(run / "summary.json", f"evaluate {run} again")["shown_score"])}
    makers = {
        str(fold.fold): LabelMaker(
            weights_sha256=file_sha256(fold.folder / "model.safetensors"),
            competition=fold.record.competition,
            trained_on=fold.record.trained_on,
        )
        for fold in folds
    }
    return PseudoRecord(run=str(run), thresholds=thresholds, makers=makers)


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
    fold: FoldRun,
    record: PseudoRecord,
    samples: Sequence[Sample],
    journal: LineJournal,
    choices: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Runs | Objects]:
    """The label of each image by the network of one fold; those of the journal are not predicted again.

    Args:
        fold: The fold.
        record: Its thresholds, and what its network has seen.
        samples: The images.
        journal: What was predicted before.
        choices: Settings of objects that the evaluation chose instead of the run's own.

    Raises:
        InputError: With every image that cannot be decoded.
    """
    manifest = fold.manifest
    if manifest.objects is not None:
        fold = replace(fold, manifest=replace(manifest, objects=replace(manifest.objects, **choices)))
    maker, ensemble = record.makers[str(fold.fold)], None
    settings = json.dumps([maker.weights_sha256, plain(fold.manifest)], sort_keys=True)
    known = {entry["key"]: entry for entry in journal.entries if {"key", "rle", "shape_hw"} <= entry.keys()}
    labels: dict[str, Runs | Objects] = {}
    faults = []
    for sample in tqdm(samples, desc=f"labels of fold {fold.fold}", unit="image", dynamic_ncols=True):
        threshold = look_up_threshold(record.thresholds, sample.organ, sample.source)
        key = json.dumps([settings, threshold, sample.pixel_size_um, image_stamp(sample.image_path)])
        if key in known:
            labels[sample.id] = _kept_label(known[key])
        else:
            ensemble = ensemble or fold.ensemble()
            try:
                labels[sample.id] = _predicted_label(ensemble, sample, threshold)
            except ImageError as error:
                faults.append(image_error_fault(sample.id, sample.image_path, error))
                continue
            entry = {"key": key, "id": sample.id, "fold": fold.fold}  # id and fold are for people to read
            label = labels[sample.id]
            rle = [runs_to_text(one) for one in label] if isinstance(label, Objects) else runs_to_text(label)
            journal.add({**entry, "shape_hw": label.shape_hw, "rle": rle})
    if faults:
        raise InputError(faults)
    return labels


def _predicted_label(ensemble: Sequence[Stage], sample: Sample, threshold: float) -> Runs | Objects:
    """The mask of an image at a threshold; of a network of objects those of at least this score."""
    if ensemble[0].manifest.objects is None:
        (masks,) = predict_masks(ensemble, sample, [threshold], never_empty=False)
        return class_runs(masks)[0]
    with open_sample(sample) as slide:
        found = predict_detections(ensemble, slide, sample.pixel_size_um)
    return found.select(found.scores >= threshold).objects


def _kept_label(entry: Mapping[str, Any]) -> Runs | Objects:
    """A label of the journal: one text of a mask, or a list of them of objects."""
    height, width = entry["shape_hw"]
    if isinstance(entry["rle"], str):
        return parse_rle(entry["rle"], (height, width))
    return Objects.from_runs([parse_rle(text, (height, width)) for text in entry["rle"]], (height, width))


def _folds_table(samples: Sequence[Sample], labels: Mapping[int, Mapping[str, Runs | Objects]]) -> pd.DataFrame:
    """folds.csv: every image is always trained on, its stratum by the mean fraction over its labels."""
    fractions = _mean_fractions(labels)
    columns = {"id": list(fractions), "group": [sample.group or sample.id for sample in samples]}
    return pd.DataFrame({**columns, "stratum": stratum_names(samples, fractions), "fold": ALWAYS_TRAINED})


def _mean_fractions(labels: Mapping[int, Mapping[str, Runs | Objects]]) -> dict[str, float]:
    """Mask fraction of each image, the mean over its labels."""
    first = next(iter(labels.values()))
    return {
        key: sum(label_pixels(each[key]).area for each in labels.values()) / len(labels) / math.prod(label.shape_hw)
        for key, label in first.items()
    }
