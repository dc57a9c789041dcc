"""The finished folds of a run, and what was written of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from histofold.core.faults import Fault, InputError
from histofold.models.build import build_model
from histofold.predict.devices import best_device
from histofold.predict.stages import Stage, stages_of
from histofold.schema.experiment import Experiment
from histofold.schema.manifest import Manifest
from histofold.schema.parse import load_toml
from histofold.schema.run_record import RunRecord, finished_records


@dataclass(frozen=True)
class FoldRun:
    """A finished fold of a run."""

    fold: int
    folder: Path
    manifest: Manifest
    record: RunRecord

    def ensemble(self) -> list[Stage]:
        """Its averaged weights as an ensemble of one."""
        model = build_model(self.record.architecture, self.record.arguments)
        model.load_state_dict(load_file(self.folder / "model.safetensors"))
        return stages_of(model.eval().to(best_device()).to(memory_format=torch.channels_last), self.manifest)


def finished_folds(run: Path) -> list[FoldRun]:
    """The finished folds of runs/E.

    Raises:
        InputError: If there is none, a record cannot be read, or a fold was an overfitting check.
    """
    folds = [FoldRun(record.fold, folder, record.manifest, record) for folder, record in finished_records(run).items()]
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
