"""What a trial of a sweep does: it trains the folds of one experiment, and tells what they reached."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histofold.schema.experiment import Experiment
from histofold.schema.sweep import SweepConfig, with_settings
from histofold.train.checkpoint import state_paths
from histofold.train.fold import prepare_fold
from histofold.train.loop import train_fold
from histofold.train.sweep.table import trial_costs
from histofold.train.sweep.workers import Outcome, Report


@dataclass(frozen=True)
class TrainingObjective:
    """Trains an experiment on the folds of a sweep; picklable, for workers in processes of their own.

    Attributes:
        folds: Folds to hold out, one after the other.
        metric: What decides, `val_dice` or `loss`.
        prunes: Whether the validations of the first fold are reported; a trial that survives them trains all folds.
    """

    folds: tuple[int, ...]
    metric: str
    prunes: bool

    def __call__(self, experiment: Experiment, folder: Path, report: Report) -> Outcome:
        """Train, or go on with what is there, and give the mean over the folds; states are dropped at the end.

        Raises:
            Stopped: If `report` asks for it.
            InputError: If the settings do not fit the data, or the loss is no number.
        """
        interrupted = False
        try:
            dices = [self._train(experiment, folder, fold, report) for fold in self.folds]
        except (KeyboardInterrupt, OSError):
            interrupted = True
            raise
        finally:
            free_memory()
            if not interrupted:
                drop_states(folder)
        values = {"val_dice": float(np.mean(dices)), **trial_costs(folder)}
        return Outcome(values[self.metric], values)

    def _train(self, experiment: Experiment, folder: Path, fold: int, report: Report) -> float:
        setup = prepare_fold(experiment, folder.name, folder.parent, fold, None)
        watches = fold == self.folds[0]
        dice = train_fold(setup, resume=True, on_validation=_watch(report, stops=self.prunes and watches))
        assert dice is not None, "a sweep runs without torchrun"
        return dice


def _watch(report: Report, stops: bool) -> Callable[[int, float], bool]:
    """Pass the scores on; without pruning, and after the first fold, nothing is stopped."""
    return report if stops else lambda step, score: False


def drop_states(folder: Path) -> None:
    """Remove the states of a trial that is at its end: they take more room than all weights of a sweep."""
    for fold in folder.glob("fold*"):
        for path in state_paths(fold):
            path.unlink(missing_ok=True)


def free_memory() -> None:
    """Give back what a trial leaves behind, above all one that ran out of memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_folds(config: SweepConfig, folder: Path) -> str:
    """Gather the input of every fold once, so that a fault is told before anything is trained.

    Args:
        config: The search.
        folder: runs/S.

    Returns:
        What identifies data and settings, for `Sweep`.

    Raises:
        InputError: If a fold is unknown or its data is not there.
    """
    first = with_settings(config.experiment, config.first_point(), str(folder))
    digests = [prepare_fold(first, folder.name, folder.parent, fold, None).digest for fold in config.folds]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def planned_steps(config: SweepConfig) -> int:
    """Optimisation steps of the whole search, at most: nothing pruned, and the longest run that a range allows."""
    points: list[Mapping[str, Any]] = [*config.grid()]
    if not points:
        space = config.space.get("train.steps")
        longest = max(space.ends()) if space else config.experiment.train.steps
        points = [{"train.steps": longest}] * config.trials
    steps = [int(point.get("train.steps", config.experiment.train.steps)) for point in points]
    return sum(steps) * len(config.folds)
