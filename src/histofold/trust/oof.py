"""Out-of-fold scores through the kernel's own predict code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from histofold.competitions.base import Competition
from histofold.competitions.classes import class_dice
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.core.rle.runs import Masks
from histofold.data.sources import joined_folds, load_sources
from histofold.models.build import build_model
from histofold.predict.devices import best_device, best_precision
from histofold.predict.ensemble import Ensemble
from histofold.predict.image import Threshold, predict_masks
from histofold.schema.experiment import Experiment
from histofold.schema.journal import LineJournal
from histofold.schema.manifest import Manifest, file_sha256
from histofold.schema.parse import load_toml, parse_dataclass, plain
from histofold.schema.sample import Sample
from histofold.trust.thresholds import score_column

THRESHOLD_GRID = tuple(round(0.2 + 0.05 * step, 2) for step in range(13))
OOF_COLUMNS = ("id", "fold", "organ", "source", "dice")
"""Of oof.csv; where there are several classes a column `dice_CLASS` follows for each."""


@dataclass(frozen=True)
class FoldRun:
    """A finished fold of a run."""

    fold: int
    folder: Path
    manifest: Manifest
    record: dict[str, Any]

    def ensemble(self) -> Ensemble:
        """Its averaged weights as an ensemble of one."""
        device = best_device()
        model = build_model(self.record["architecture"], self.record["arguments"])
        model.load_state_dict(load_file(self.folder / "model.safetensors"))
        model = model.eval().to(device).to(memory_format=torch.channels_last)
        precision = best_precision(device)
        manifest = self.manifest
        return Ensemble([model], [1.0], manifest.preprocessing, manifest.views, device, precision, manifest.average)


def finished_folds(run: Path) -> list[FoldRun]:
    """The finished folds of runs/E.

    Raises:
        InputError: If there is none, or a fold was an overfitting check.
    """
    folders = sorted(run.glob("fold*/run.json"))
    if not folders:
        raise InputError([Fault(run.name, str(run), "no finished fold here", "run `histofold train` first")])
    folds, faults = [], []
    for path in folders:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["limit"] is not None:
            rule = f"an overfitting check on {record['limit']} images: its score would mean nothing"
            faults.append(Fault(path.parent.name, str(path), rule, "train the fold without --limit"))
            continue
        manifest = parse_dataclass(Manifest, record["manifest"], str(path))
        folds.append(FoldRun(record["fold"], path.parent, manifest, record))
    if faults:
        raise InputError(faults)
    return sorted(folds, key=lambda fold: fold.fold)


def run_experiment(run: Path) -> Experiment:
    """The experiment of a run, as its first fold recorded it."""
    return load_toml(Experiment, sorted(run.glob("fold*/experiment.toml"))[0])


def run_thresholds(run: Path) -> dict[str, float]:
    """The thresholds that an evaluation chose, by the keys of a manifest.

    Raises:
        InputError: If the run was not evaluated.
    """
    path = run / "thresholds.json"
    if not path.is_file():
        raise InputError([Fault(run.name, str(path), "no thresholds", f"run `histofold evaluate {run}` first")])
    thresholds: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return thresholds


def score_folds(
    run: Path, folds: Sequence[FoldRun], competition: Competition, samples: dict[str, Sample]
) -> pd.DataFrame:
    """Dice of every held-out slide, the mean over its classes, at every threshold of the grid.

    Scores are kept in runs/E/oof_scores.jsonl as they come, so that an interrupted evaluation goes on.

    Returns:
        Table of id, fold, organ, source, group and one column for each threshold (float column names); where there are
        several classes, then one for each class and threshold, as `score_column` names them.
    """
    experiment = run_experiment(run)
    table = joined_folds(load_sources(experiment))
    journal = _ScoreJournal(run / "oof_scores.jsonl")
    rows = []
    for fold in folds:
        key = _fold_key(fold)
        ids = _held_out_ids(fold, table)
        ensemble = None
        for sample_id in tqdm(ids, desc=f"out-of-fold {fold.fold}", unit="slide", dynamic_ncols=True):
            sample = samples[sample_id]
            scores = journal.get(key, sample_id)
            if scores is None:
                ensemble = ensemble or fold.ensemble()
                scores = score_slide(ensemble, fold.manifest, competition, sample)
                journal.add(key, sample_id, scores)
            row = {"id": sample.id, "fold": fold.fold, "organ": sample.organ, "source": sample.source}
            rows.append({**row, "group": sample.group, **_score_columns(scores, fold.manifest.classes)})
    return pd.DataFrame(rows)


def _score_columns(scores: Sequence[Sequence[float]], classes: Sequence[str]) -> dict[str | float, float]:
    """The scores of a slide's classes at each threshold, (K, T), as columns."""
    columns: dict[str | float, float] = {
        threshold: sum(at) / len(at) for threshold, at in zip(THRESHOLD_GRID, zip(*scores, strict=True), strict=True)
    }
    if len(classes) > 1:
        for name, of_class in zip(classes, scores, strict=True):
            columns |= {score_column(name, t): score for t, score in zip(THRESHOLD_GRID, of_class, strict=True)}
    return columns


def _held_out_ids(fold: FoldRun, table: pd.DataFrame) -> list[str]:
    """The slides that the fold was not trained on.

    Raises:
        InputError: If folds.csv was changed since: the model would be scored on slides that it was trained on.
    """
    ids = table.loc[table["fold"] == fold.fold, "id"].tolist()
    if set(ids) != set(fold.record["dice_by_id"]):
        rule = f"folds.csv now holds out other slides than fold {fold.fold} was trained without"
        raise InputError([Fault(f"fold {fold.fold}", str(fold.folder), rule, "train it anew, or undo the change")])
    return ids


def _fold_key(fold: FoldRun) -> str:
    """Identifies weights and prediction settings: scores of another key are not reused."""
    return file_sha256(fold.folder / "model.safetensors")[:16] + json.dumps(plain(fold.manifest), sort_keys=True)


class _ScoreJournal:
    """Scores of finished slides, appended line by line: a list of the thresholds', of several classes one for each."""

    def __init__(self, path: Path) -> None:
        self._journal = LineJournal(path)
        self._known = {(entry["key"], entry["id"]): entry["scores"] for entry in self._journal.entries}

    def get(self, key: str, sample_id: str) -> list[list[float]] | None:
        scores = self._known.get((key, sample_id))
        return scores if scores is None or isinstance(scores[0], list) else [scores]

    def add(self, key: str, sample_id: str, scores: list[list[float]]) -> None:
        self._journal.add({"key": key, "id": sample_id, "scores": scores if len(scores) > 1 else scores[0]})


def score_slide(ensemble: Ensemble, manifest: Manifest, competition: Competition, sample: Sample) -> list[list[float]]:
    """Dice of each class of one slide at each threshold of the grid, (K, T)."""
    truth = competition.target(sample)
    predictions = predict_masks(ensemble, sample, manifest, THRESHOLD_GRID, competition.never_empty)
    by_threshold = [class_dice(masks, truth) for masks in predictions]
    return [list(of_class) for of_class in zip(*by_threshold, strict=True)]


def predict_slide(fold: FoldRun, competition: Competition, sample: Sample, threshold: Threshold) -> Masks:
    """The cleaned mask of one slide, of each class where there are several, for pictures."""
    return predict_masks(fold.ensemble(), sample, fold.manifest, [threshold], competition.never_empty)[0]


def warn_unfinished(folds: Sequence[FoldRun], expected: Sequence[int]) -> list[str]:
    """Words about folds that are not finished: the score then speaks of fewer images."""
    missing = sorted(set(expected) - {fold.fold for fold in folds})
    if not missing:
        return []
    note = f"folds {', '.join(map(str, missing))} are not finished: the score speaks of the other folds alone"
    logger.warning(note)
    return [note]


def grouped_interval(
    scores: np.ndarray, groups: Sequence[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95% interval of the mean score by the bootstrap over groups (Efron and Tibshirani 1993, chapter 13).

    Groups are drawn and not images, since images of one patient are not independent.

    Args:
        scores: Score of each image, float (N,).
        groups: Group of each image.
        draws: Bootstrap draws.
        seed: Seed of the draws.
    """
    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    sums = np.bincount(codes, scores)
    counts = np.bincount(codes)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
