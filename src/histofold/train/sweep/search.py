"""The search over an experiment's settings: what a trial trains, what it costs, and the search as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histofold.competitions.hidden import refuse_shift
from histofold.data.changes import refuse_changed_data
from histofold.data.sources import load_sources
from histofold.predict.devices import release_memory
from histofold.schema.experiment import Experiment
from histofold.schema.files import remove_leftovers
from histofold.schema.sweep import SweepConfig, with_settings
from histofold.train.checkpoint import state_paths
from histofold.train.fold import prepare_fold
from histofold.train.loop import train_fold
from histofold.train.sweep.results import trial_costs, write_best, write_trial_table
from histofold.train.sweep.study import Sweep
from histofold.train.sweep.workers import Outcome, Report, run_workers

ShiftScore = Callable[[Path], float]
"""Gives the shift score of a run, by its folder."""


def search(
    config: SweepConfig,
    folder: Path,
    digest: str,
    workers: int = 1,
    address: str = "",
    shift_score: ShiftScore | None = None,
) -> Sweep:
    """Run a search, or what is left of it; table.csv is written as trials end, best.toml at the end.

    Args:
        config: The search.
        folder: runs/S.
        digest: Of `check_folds`.
        workers: Processes on this machine, each with a trial of its own.
        address: The database of the study, as `Sweep` takes it.
        shift_score: Scores each trained trial where `shift` decides, `histofold.trust.evaluate.shift_score`; picklable.

    Returns:
        The sweep; trials are left where every worker has ended before.

    Raises:
        InputError: If the study is one of another search, or its database cannot be opened.
        ValueError: If the shift score decides, and nothing gives it.
    """
    shifted = config.metric == "shift"
    if shifted and shift_score is None:
        raise ValueError("metric='shift' needs shift_score: pass histofold.trust.evaluate.shift_score")
    objective = TrainingObjective(
        config.folds, config.metric, config.pruner != "none", shift_score if shifted else None
    )
    remove_leftovers(folder)
    sweep = run_workers(folder, config, digest, objective, workers, address, write_trial_table)
    write_trial_table(sweep)
    write_best(sweep)
    return sweep


@dataclass(frozen=True)
class TrainingObjective:
    """Trains an experiment on the folds of a sweep; picklable, for workers in processes of their own."""

    folds: tuple[int, ...]
    """Folds to hold out, one after the other."""
    metric: str
    """What decides, `val_dice`, `shift` or `loss`."""
    prunes: bool
    """Whether the validations of the first fold are reported; a trial that survives them trains all folds."""
    shift_score: ShiftScore | None = None
    """Scores the finished folds of a trial; None where something else than `shift` decides."""

    def __call__(self, experiment: Experiment, folder: Path, report: Report) -> Outcome:
        """Train, or go on with what is there, and give the mean over the folds; states are dropped at the end.

        Raises:
            Stopped: If `report` asks for it.
            InputError: If the settings do not fit the data, or the loss is no number.
        """
        interrupted = False
        try:
            dices = [self._train(experiment, folder, fold, report) for fold in self.folds]
            shift = {} if self.shift_score is None else {"shift": self.shift_score(folder)}
        except (KeyboardInterrupt, OSError):
            interrupted = True
            raise
        finally:
            release_memory()
            if not interrupted:
                drop_states(folder)
        values = {**shift, "val_dice": float(np.mean(dices)), **trial_costs(folder)}
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


def check_folds(config: SweepConfig, folder: Path) -> str:
    """Gather the input of every fold once, so that a fault is seen before anything is trained.

    Args:
        config: The search.
        folder: runs/S.

    Returns:
        What identifies data and settings, for `Sweep`.

    Raises:
        InputError: If a fold is unknown, its data is not there, or its task has no shift score where that decides.
    """
    sources = load_sources(config.experiment)
    if config.metric == "shift":
        refuse_shift(sources[0].competition.task, "metric", str(folder), 'set metric to "val_dice"')
    refuse_changed_data(sources)
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


def forecast(config: SweepConfig) -> str:
    """What the search costs at most, in words."""
    count, folds, steps = config.size(), len(config.folds), planned_steps(config)
    sizes = config.space.get("train.batch")
    largest = max(sizes.ends()) if sizes else config.experiment.train.batch
    bound = "at most " if config.pruner != "none" or sizes or "train.steps" in config.space else ""
    tiles = steps * int(largest) * config.experiment.train.accumulate
    trials = f"{count} trial{'s' * (count > 1)} x {folds} fold{'s' * (folds > 1)}"
    return f"{trials}: {bound}{steps} steps, {tiles} tiles; {config.metric} decides"
