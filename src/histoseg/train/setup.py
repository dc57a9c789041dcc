"""What a fold is trained on, gathered and checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histoseg.competitions.base import Competition
from histoseg.competitions.registry import get_competition
from histoseg.core.faults import Fault, InputError
from histoseg.data.store import agreed_preprocessing, load_dataset
from histoseg.schema.experiment import Experiment
from histoseg.schema.manifest import Manifest, file_sha256
from histoseg.schema.parse import plain
from histoseg.schema.plan import manifest_of
from histoseg.schema.sample import Sample


@dataclass(frozen=True, kw_only=True)
class FoldSetup:
    """One fold of one experiment, ready to train."""

    experiment: Experiment
    """The experiment."""
    fold: int
    """The fold that is held out."""
    folder: Path
    """Where the run writes: runs/E/fold{k}."""
    dataset: Path
    """The built dataset."""
    index: pd.DataFrame
    """The tiles to train on."""
    competition: Competition
    """The adapter, its training targets loaded."""
    validation: list[Sample]
    """The held-out slides; with a limit, the training slides themselves."""
    manifest: Manifest
    """How slides are predicted in validation."""
    limit: int | None
    """Number of training slides of an overfitting check, None for a real run."""
    digest: str
    """Identifies experiment, dataset, fold and limit: states of another digest are not resumed."""


def known_folds(experiment: Experiment) -> list[int]:
    """The folds of the experiment's dataset."""
    folds = load_dataset(Path(experiment.data.dataset))[2]
    return sorted(int(fold) for fold in folds["fold"].unique())


def prepare_fold(experiment: Experiment, name: str, runs: Path, fold: int, limit: int | None) -> FoldSetup:
    """Gather what a fold needs.

    Args:
        experiment: The experiment.
        name: Its name, the folder below `runs`.
        runs: Where runs are kept.
        fold: The fold to hold out.
        limit: Train and validate on this many training slides only, to see that the model can overfit them.

    Raises:
        InputError: If the dataset is missing or cut at another scale, the fold is unknown, or nothing is left to
            train on.
    """
    folder = Path(experiment.data.dataset)
    info, index, folds = load_dataset(folder)
    if fold not in set(folds["fold"]):
        known = ", ".join(str(k) for k in sorted(folds["fold"].unique()))
        raise InputError([Fault(f"fold {fold}", str(folder / "folds.csv"), "no such fold", f"known folds: {known}")])
    preprocessing = agreed_preprocessing(experiment, info, folder)
    competition = get_competition(info.competition)
    samples = {s.id: s for s in competition.samples(Path(experiment.data.root or info.root), "train")}
    held_out = folds.loc[folds["fold"] == fold, "id"].tolist()
    train_ids = folds.loc[folds["fold"] != fold, "id"].tolist()
    if limit is not None:
        train_ids = held_out = train_ids[:limit]
    missing = [key for key in held_out if key not in samples]
    if missing:
        remedy = "build the dataset anew from this folder"
        raise InputError([Fault(k, str(folder / "folds.csv"), "id is not in the competition", remedy) for k in missing])
    chosen = index[index["id"].isin(train_ids)].reset_index(drop=True)
    if len(chosen) < experiment.train.batch and chosen.empty:
        raise InputError([Fault(f"fold {fold}", str(folder / "index.csv"), "no tiles to train on", "build it anew")])
    text = json.dumps([_training_settings(experiment), file_sha256(folder / "index.csv"), train_ids, held_out, limit])
    return FoldSetup(
        experiment=experiment,
        fold=fold,
        folder=runs / name / f"fold{fold}",
        dataset=folder,
        index=chosen,
        competition=competition,
        validation=[samples[key] for key in held_out],
        manifest=manifest_of(experiment, preprocessing, info.competition, competition.classes),
        limit=limit,
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _training_settings(experiment: Experiment) -> dict[str, object]:
    """The settings that decide the weights; how often to look and to save, and where things lie, do not."""
    settings = plain(experiment)
    for name in ("workers", "validate_every", "validate_images", "save_every"):
        del settings["train"][name]
    del settings["data"], settings["predict"]
    return settings
