"""runs/E/fold{k}/run.json: what a finished fold says of itself; its one writer and its one reader."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from histofold.core.faults import Fault, InputError
from histofold.schema.experiment import Experiment
from histofold.schema.manifest import Manifest
from histofold.schema.parse import load_json, to_toml, write_json

RECORD_NAME = "run.json"
"""Where it stands, a fold counts as finished: it is written last."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished fold."""

    digest: str
    """Identifies experiment, datasets, fold and limit."""
    fold: int
    """The fold that was held out."""
    limit: int | None
    """Number of slides of an overfitting check, None of a real run."""
    competition: str
    """Name of the adapter whose ids `dice_by_id` and `trained_on` have."""
    metric: str = "Dice"
    """The word that stands before its scores: of objects it is AP or AP50, and the fields that are called Dice hold
    it."""
    steps: int
    """Optimisation steps."""
    seconds: float
    """Time that they took."""
    dice: float
    """Score of the averaged weights on all held-out slides, after the last step: their mean Dice, or the AP of all."""
    best_dice_optimistic: float
    """The best score of all validations: chosen by what it is measured on, and so too high."""
    best_step: int
    """The step of that validation."""
    dice_by_id: dict[str, float]
    """Score of each held-out slide."""
    trained_on: dict[str, str]
    """File stamp by id of every image that the weights, or a network before them, were trained on."""
    manifest: Manifest
    """How slides are predicted with the weights; it has no members yet."""
    architecture: str
    """Network family, as `build_model` knows it."""
    arguments: dict[str, Any]
    """What the network is built with."""
    inputs: dict[str, str] = field(default_factory=dict)
    """All that decided the training beside its settings: pixels, mask, table row and part of each image, as digests or
    words; empty in records of earlier versions."""
    folds: tuple[int, ...] = ()
    """All folds of its dataset that could be held out; empty in records of earlier versions."""
    datasets: tuple[str, ...] = ()
    """Its datasets from the fold's own folder, the main one first: a project that was moved or copied has its own."""
    settings_sha256: str = ""
    """Identifies experiment.toml beside it, where its data lies aside; empty in records of earlier versions."""


def settings_sha256(experiment: Experiment) -> str:
    """Identifies the settings of an experiment, where its data lies aside: runs are moved."""
    return _settings_digest(to_toml(experiment))


def file_settings_sha256(path: Path) -> str:
    """The same of a run's experiment.toml, by what it holds: settings that came after the run was made change nothing.

    Raises:
        ValueError: If it is no TOML file.
    """
    return _settings_digest(path.read_text(encoding="utf-8"))


def _settings_digest(text: str) -> str:
    settings = tomllib.loads(text)
    settings.pop("data", None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def keeps_settings(folder: Path, record: RunRecord) -> bool:
    """Whether the experiment.toml of a finished fold is what the run wrote."""
    try:
        return record.settings_sha256 in ("", file_settings_sha256(folder / "experiment.toml"))
    except (OSError, ValueError):
        return False


def datasets_beside(experiment: Experiment, folder: Path) -> tuple[str, ...]:
    """The datasets of an experiment from the folder of a fold, the main one first."""
    names = [experiment.data.dataset, *(source.dataset for source in experiment.data.sources)]
    return tuple(os.path.relpath(Path(name).resolve(), folder.resolve()) for name in names)


def with_datasets_beside(experiment: Experiment, folder: Path, datasets: Sequence[str]) -> Experiment:
    """An experiment whose datasets are those that lie as they did from the folder of a fold, where they do.

    Args:
        experiment: As the fold recorded it.
        folder: runs/E/fold{k}.
        datasets: Of its record; empty in records of earlier versions.
    """
    names = [experiment.data.dataset, *(source.dataset for source in experiment.data.sources)]
    beside = [Path(os.path.normpath(folder.resolve() / name)) for name in datasets]
    if len(beside) == len(names):
        names = [str(path) if path.is_dir() else name for path, name in zip(beside, names, strict=True)]
    sources = zip(experiment.data.sources, names[1:], strict=True)
    further = tuple(replace(source, dataset=name) for source, name in sources)
    return replace(experiment, data=replace(experiment.data, dataset=names[0], sources=further))


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record of a fold, whole or not at all.

    Args:
        folder: runs/E/fold{k}.
        record: What to write.
    """
    write_json(folder / RECORD_NAME, record)


def read_record(folder: Path) -> RunRecord:
    """Read the record of a finished fold.

    Args:
        folder: runs/E/fold{k}.

    Raises:
        InputError: If it is missing, cut short or something else; with all that is wrong in it.

    Example:
        >>> read_record(Path("runs/unet_resnet34/fold0")).dice  # doctest: +SKIP
        0.7912
    """
    try:
        return load_json(RunRecord, folder / RECORD_NAME)
    except InputError as error:
        remedy = f"copy the run again, or remove {folder} and train the fold anew"
        raise InputError(
            [
                Fault(folder.name, fault.file, f"no record of a finished fold ({fault.id}: {fault.rule})", remedy)
                for fault in error.faults
            ]
        ) from error


def read_records(run: Path) -> dict[Path, RunRecord]:
    """The records of a run by the folders of its finished folds, overfitting checks among them.

    Raises:
        InputError: With every fault of every record that cannot be read.
    """
    records: dict[Path, RunRecord] = {}
    faults: list[Fault] = []
    for path in sorted(run.glob(f"fold*/{RECORD_NAME}")):
        try:
            records[path.parent] = read_record(path.parent)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    return records


def finished_records(run: Path) -> dict[Path, RunRecord]:
    """As `read_records`, of a run whose scores and weights count.

    Raises:
        InputError: If no fold is finished, a record cannot be read, or a fold was an overfitting check.
    """
    records = read_records(run)
    if not records:
        raise InputError([Fault(run.name, str(run), "no finished fold here", "run `histofold train` first")])
    faults = [
        Fault(
            folder.name,
            str(folder / RECORD_NAME),
            f"an overfitting check on {record.limit} images (--limit): its score would mean nothing",
            "train the fold without --limit",
        )
        for folder, record in records.items()
        if record.limit is not None
    ]
    if faults:
        raise InputError(faults)
    return records
