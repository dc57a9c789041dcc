"""A run is evaluated: whether it may be, and then what it scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from histofold.competitions.hidden import refuse_shift
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.data.changes import changed_inputs, content_inputs, refuse_changed_data
from histofold.data.leaks import run_leaks
from histofold.data.sources import Source, load_sources
from histofold.data.store import known_folds
from histofold.schema.files import remove_leftovers
from histofold.trust.evaluation import Evaluation, FinishedRun
from histofold.trust.masks import evaluate_masks
from histofold.trust.objects.evaluate import evaluate_objects
from histofold.trust.oof import FoldRun, finished_folds, run_experiment
from histofold.trust.shift import ShiftUse
from histofold.trust.volumes import evaluate_volumes


def evaluate_run(run: Path, root: Path | None = None, shift: ShiftUse = "none") -> Evaluation:
    """Score a run out of fold and write oof.csv, thresholds.json and summary.json.

    Args:
        run: runs/E, with at least one finished fold.
        root: The competition folder; None for where its dataset says.
        shift: Whether slides are also scored shifted, as the hidden set would show them, and whether the thresholds
            are chosen on that.

    Raises:
        InputError: If the run has no finished fold, one was trained on what it is scored on, an image that it is
            scored on is no longer in the competition, or its task has no shift score.

    Example:
        >>> evaluation = evaluate_run(Path("runs/unet_resnet34"))
        >>> print(*evaluation.lines(), sep="\\n")
    """
    found = finished_run(run, root, shift)
    log_notes(found)
    task = found.sources[0].competition.task
    if task == "instances":
        return evaluate_objects(found)
    return evaluate_volumes(found) if task == "volumes" else evaluate_masks(found, shift)


def shift_score(run: Path) -> float:
    """The shift score of a run's finished folds, as `evaluate_run` finds and writes it; raises as that does."""
    found = finished_run(run, shift="score")
    return float(evaluate_masks(found, "score").summary["shift"]["dice"])


def log_notes(found: FinishedRun) -> None:
    """Log what a reader of a run's scores must know."""
    for note in found.notes:
        logger.warning(note)


def finished_run(run: Path, root: Path | None = None, shift: ShiftUse = "none") -> FinishedRun:
    """A run that may be scored, and with shifted slides where that is wanted; raises as `evaluate_run`."""
    remove_leftovers(run)
    folds = finished_folds(run)
    leaks = run_leaks(run)
    if leaks:
        raise InputError(leaks)
    experiment = run_experiment(run)
    if root is not None:
        experiment = replace(experiment, data=replace(experiment.data, root=str(root)))
    sources = load_sources(experiment)
    if shift != "none":
        refuse_shift(sources[0].competition.task, run.name, str(run), "leave --shift out")
    refuse_changed_data(sources)
    _refuse_other_inputs(folds, sources)
    for fold, source in itertools.product(folds, sources):
        source.held_out(fold.fold)  # refuses images that are gone before anything is predicted
    missing = sorted(set(known_folds(experiment)) - {fold.fold for fold in folds})
    return FinishedRun(run, folds, sources, missing)


def _refuse_other_inputs(folds: Sequence[FoldRun], sources: Sequence[Source]) -> None:
    """Refuse folds whose images or masks are no longer those that they were trained on and scored by."""
    now: dict[str, str] = {}
    for source in sources:
        now |= content_inputs({source.key(key): content for key, content in source.info.contents.items()})
    faults = []
    for fold in folds:
        before = {key: value for key, value in fold.record.inputs.items() if key in now}
        rule = "; ".join(changed_inputs(before, now))
        if rule:
            remedy = f"remove {fold.folder} and train it anew, or undo the change"
            faults.append(Fault(fold.folder.name, str(fold.folder), f"since it was trained there are {rule}", remedy))
    if faults:
        raise InputError(faults)
