"""What the folds of a run find in the images that they did not see, before anything is cut: kept beside the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from histofold.core.objects.coco import counts_text, runs_from_counts
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.data.sources import JoinedTruth, Source, joined_folds, joined_groups, joined_samples
from histofold.imaging.slide import open_sample
from histofold.predict.objects.image import predict_objects
from histofold.predict.objects.run import BatchRunner, run_batch
from histofold.predict.stages import Stage
from histofold.schema.files import LineJournal
from histofold.schema.sample import Sample
from histofold.trust.oof import FoldRun, fold_key, held_out_ids, slide_key

JOURNAL_NAME = "oof_detections.jsonl"


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundImage:
    """A held-out image with what its fold finds in it."""

    sample: Sample
    """The image."""
    fold: int
    """The fold that did not see it."""
    group: str
    """Its group, as `joined_groups` gives it."""
    raw: Detections
    """What was found, before scores and sizes are cut and objects grow."""
    truth: Objects
    """Its true objects."""
    unsure: Objects
    """Objects of which none was sure."""


def find_held_out(run: Path, folds: Sequence[FoldRun], sources: Sequence[Source]) -> list[FoundImage]:
    """The raw detections of every held-out image of the run's datasets, by the fold that did not see it.

    They are kept in runs/E/oof_detections.jsonl as they come, so that an interrupted evaluation goes on, and one that
    weighs other choices predicts nothing anew.
    """
    table, truth, samples = joined_folds(sources), JoinedTruth(sources), joined_samples(sources)
    groups = joined_groups(sources)
    journal = LineJournal(run / JOURNAL_NAME)
    known = _whole_entries(journal)
    images = []
    for fold in folds:
        weights_key = fold_key(fold)
        ensemble = None
        for sample_id in tqdm(
            held_out_ids(fold, table), desc=f"out-of-fold {fold.fold}", unit="image", dynamic_ncols=True
        ):
            sample = samples[sample_id]
            key = slide_key(fold, weights_key, sample_id)
            entry = known.get((key, sample_id))
            if entry is None:
                ensemble = ensemble or fold.ensemble()
                prompted = fold.prompted(truth, [sample])
                raw = _detected(ensemble, sample, run_batch if prompted is None else prompted.run)
                journal.add({"key": key, "id": sample_id, **_as_plain(raw)})
            else:
                raw = _from_plain(entry)
            images.append(
                FoundImage(
                    sample=sample,
                    fold=fold.fold,
                    group=groups[sample_id],
                    raw=raw,
                    truth=truth.objects(sample),
                    unsure=truth.unsure(sample),
                )
            )
    return images


def kept_detections(run: Path, folds: Sequence[FoldRun]) -> dict[str, tuple[FoldRun, Detections]]:
    """By image the fold that held it out and its finds, as an evaluation kept them of the folds as they are now."""
    known = _whole_entries(LineJournal(run / JOURNAL_NAME))
    kept = {}
    for fold in folds:
        weights_key = fold_key(fold)
        for sample_id in fold.record.dice_by_id:
            entry = known.get((slide_key(fold, weights_key, sample_id), sample_id))
            if entry is not None:
                kept[sample_id] = fold, _from_plain(entry)
    return kept


def _whole_entries(journal: LineJournal) -> dict[tuple[str, str], dict[str, Any]]:
    """Lines of the journal that hold detections, by key and image."""
    whole = [entry for entry in journal.entries if {"key", "id", "shape", "counts", "scores"} <= entry.keys()]
    return {(entry["key"], entry["id"]): entry for entry in whole}


def _detected(ensemble: Sequence[Stage], sample: Sample, run: BatchRunner) -> Detections:
    with open_sample(sample) as slide:
        return predict_objects(ensemble, slide, sample.pixel_size_um, run).raw


def _as_plain(raw: Detections) -> dict[str, Any]:
    """Detections as a line of the journal holds them."""
    counts = [counts_text(runs) for runs in raw.objects]
    return {"shape": list(raw.objects.shape_hw), "counts": counts, "scores": raw.scores.tolist()}


def _from_plain(entry: dict[str, Any]) -> Detections:
    height, width = entry["shape"]
    parts = [runs_from_counts(text, (height, width)) for text in entry["counts"]]
    return Detections(Objects.from_runs(parts, (height, width)), np.array(entry["scores"], np.float64))
