"""Training: the folds of an experiment one after the other, the steps of a fold, and what follows some of them.

It counts optimisation steps, not seconds, and every draw, augmentation and rate is a function of the step, so that the
same seed gives the same weights, interrupted or not."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from histofold.competitions.base import masks_dice
from histofold.core.log import logger
from histofold.core.rle.sets import without_runs
from histofold.data.changes import refuse_changed_data
from histofold.data.sources import load_sources
from histofold.data.store import known_folds, tile_differences
from histofold.data.tiles.files import refuse_cut_tiles
from histofold.models.folding import fold_norms
from histofold.predict.image import predict_masks
from histofold.predict.stages import stages_of
from histofold.schema.experiment import VALIDATION_THRESHOLD, Experiment
from histofold.schema.sample import Sample
from histofold.train.checkpoint import save_network, save_state
from histofold.train.dataset import make_loader, training_tiles
from histofold.train.fold import FoldSetup, check_classes, prepare_fold
from histofold.train.interruption import Interrupted, Interruption, saved_words
from histofold.train.log import (
    OnSlide,
    check_tracker,
    log_to_tracker,
    organ_dice,
    overlay_logger,
    score_column,
    stop_tracker,
    write_log,
)
from histofold.train.objects.validation import validate_objects
from histofold.train.processes import alone_at, broadcast
from histofold.train.run import (
    Run,
    Stopped,
    is_finished,
    make_room,
    record_fold,
    refresh_record,
    refuse_other_finished_run,
    start_run,
)
from histofold.train.sampler import training_order
from histofold.train.step import Batch, refuse_broken_weights, refuse_non_finite, step_images, training_step
from histofold.train.untrained import take_as_it_is

LOG_EVERY = 10

OnValidation = Callable[[int, float], bool]
"""Gets step and score of each validation during training; True stops the run."""


def train_experiment(
    experiment: Experiment, name: str, runs: Path, fold: int | None, resume: bool, limit: int | None
) -> Iterator[tuple[FoldSetup, float]]:
    """Train one fold or all of them, every fold's input checked before the first one starts.

    Args:
        experiment: The experiment.
        name: Its name, the folder below `runs`.
        runs: Where runs are kept.
        fold: The fold to hold out; None for all, one after the other.
        resume: Whether to go on with a run that was interrupted.
        limit: Train and validate on this many slides only.

    Yields:
        Each fold once it is trained, with its score (Dice, of objects AP); nothing in a helping process of torchrun,
        and nothing where nothing is trained.

    Example:
        >>> for setup, score in train_experiment(experiment, "E", Path("runs"), None, resume=True, limit=None):
        ...     print(setup.fold, score)
    """
    folds = known_folds(experiment) if fold is None else [fold]
    refuse_changed_data(load_sources(experiment))
    setups = [prepare_fold(experiment, name, runs, k, limit) for k in folds]
    for difference in tile_differences(experiment, Path(experiment.data.dataset)):
        logger.warning("%s", difference)
    refuse_cut_tiles({key for s in setups for key in s.index[["folder", "tile_id"]].itertuples(index=False, name=None)})
    for setup in setups:
        make_room(setup, resume)
    for setup in setups:
        score = train_fold(setup, resume)
        if score is not None:
            yield setup, score


def train_fold(setup: FoldSetup, resume: bool, on_validation: OnValidation | None = None) -> float | None:
    """Train one fold to its end and return the score of the averaged weights on the held-out slides.

    Under torchrun only the first process validates; the others return None, as does a fold of what is not trained.

    Args:
        setup: The fold.
        resume: Whether to go on with a run that was interrupted.
        on_validation: Gets how the run does, and may stop it.

    Raises:
        Stopped: If `on_validation` wants it so.
        InputError: If the folder holds another run, or one that `resume` is not asked for; if another process trains
            the fold; if the tracker cannot be had; if the loss is no number.
    """
    check_tracker(setup.experiment.train.tracker)
    check_classes(setup)
    with alone_at(setup.folder.parent, setup.fold):
        return _train_alone(setup, resume, on_validation)


def _train_alone(setup: FoldSetup, resume: bool, on_validation: OnValidation | None) -> float | None:
    make_room(setup, resume)
    refuse_other_finished_run(setup)
    untrained = setup.experiment.train.steps == 0
    if is_finished(setup):
        logger.info("fold %d is finished already", setup.fold)
        score = refresh_record(setup)
        return None if untrained else score
    if untrained:
        take_as_it_is(setup)
        return None
    run = start_run(setup, resume)
    try:
        with Interruption(leads=run.accelerator.is_main_process) as interruption:
            _take_steps(run, setup, on_validation, interruption)
            return _finish(run, setup)
    except KeyboardInterrupt as stop:
        raise Interrupted(getattr(stop, "number", signal.SIGINT), saved_words(setup.folder, setup.fold)) from None
    finally:
        stop_tracker(run.accelerator)


def _take_steps(run: Run, setup: FoldSetup, on_validation: OnValidation | None, interruption: Interruption) -> None:
    """Step, log, validate and save, from the step that the run is at to its last one."""
    config = setup.experiment.train
    batches = training_batches(run, setup)
    bar = _step_bar(run, setup)
    while run.step < config.steps:
        started = time.monotonic()
        with interruption.held_back():
            losses = training_step(run, setup, batches)
            run.step += 1
        is_last = run.step == config.steps
        validates = run.step % config.validate_every == 0 and not is_last
        stopped = interruption.number
        saves = run.step % config.save_every == 0 or is_last or stopped > 0
        logs = run.step % LOG_EVERY == 0 or validates or is_last
        if logs or saves:
            refuse_non_finite(run, setup, losses)  # waits for the device
        if validates or saves:
            refuse_broken_weights(run, setup)
        run.seconds += time.monotonic() - started
        bar.update()
        if logs and run.accelerator.is_main_process:
            _log_step(run, setup, losses)
            bar.set_postfix(loss=f"{run.rows[-1]['loss']:.3f}")
        if validates and stopped:  # a state that is saved before its validation would be resumed behind it
            raise Interrupted(stopped)
        if validates:
            _validate(run, setup, config.validate_images)
        if saves:
            _save(run, setup)
        if stopped:
            raise Interrupted(stopped)
        if saves:
            run.accelerator.wait_for_everyone()
        if validates and on_validation is not None:
            stops = on_validation(run.step, run.scores[-1])
            if broadcast(stops, run.accelerator):
                raise Stopped(f"fold {setup.fold} was stopped at step {run.step}")
    bar.close()


def training_batches(run: Run, setup: FoldSetup) -> Iterator[Batch]:
    """The batches of this process from the run's step on, endlessly; a step takes `accumulate` of them."""
    config, accelerator = setup.experiment.train, run.accelerator
    first_batch = run.step * config.accumulate
    sampler = training_order(setup, first_batch, accelerator.process_index, accelerator.num_processes)
    dataset = training_tiles(setup, keep=accelerator.is_main_process)
    return iter(make_loader(dataset, sampler, config.batch, config.workers))


def _step_bar(run: Run, setup: FoldSetup) -> tqdm:
    return tqdm(
        total=setup.experiment.train.steps,
        initial=run.step,
        desc=f"fold {setup.fold}",
        unit="step",
        dynamic_ncols=True,
        disable=not run.accelerator.is_main_process,
    )


def _log_step(run: Run, setup: FoldSetup, losses: Mapping[str, torch.Tensor]) -> None:
    """Note a step in the log; the speed is that since the last note."""
    images = step_images(run, setup)
    last = run.rows[-1] if run.rows else {"step": 0, "seconds": 0.0}
    row = {
        "step": run.step,
        "epoch": run.step * images / len(setup.index),
        "lr": run.rate,
        **{name: float(value) for name, value in losses.items()},
        "images_per_s": images * (run.step - last["step"]) / (run.seconds - last["seconds"]),
        "seconds": run.seconds,
    }
    run.rows.append(row)
    log_to_tracker(run.accelerator, row)


def _validate(run: Run, setup: FoldSetup, most: int | None) -> dict[str, float]:
    """Validate, and note the score in the log beside the step's losses; gives that by id on the first process."""
    by_id = validate(run, setup, most)
    if run.accelerator.is_main_process:
        scores = {score_column(setup.metric): run.scores[-1]}
        run.rows[-1] |= scores
        by_organ = organ_dice(by_id, setup.validation) if setup.manifest.objects is None else {}
        log_to_tracker(run.accelerator, {"step": run.step, **scores, **by_organ})
    return by_id


def _save(run: Run, setup: FoldSetup) -> None:
    if run.accelerator.is_main_process:
        save_state(setup.folder, run.step, run.state(setup))
        write_log(run.rows, setup.folder / "log.csv", setup.metric)


def _finish(run: Run, setup: FoldSetup) -> float | None:
    """Validate on all held-out slides, then write weights, log and run.json, which makes the run finished."""
    by_id = _validate(run, setup, None)
    if not run.accelerator.is_main_process:
        return None
    score, column = run.scores[-1], score_column(setup.metric)
    seen = [(row[column], row["step"]) for row in run.rows if column in row]
    write_log(run.rows, setup.folder / "log.csv", setup.metric)
    save_network(run.averaged(), setup.folder)
    best, step = max(seen)
    trained = {"steps": run.step, "seconds": round(run.seconds, 1), "trained_on": setup.trained_on}
    scores = {"dice": score, "dice_by_id": by_id, "best_dice_optimistic": best, "best_step": int(step)}
    record_fold(setup, **trained, **scores)
    return score


def validate(run: Run, setup: FoldSetup, most: int | None = None) -> dict[str, float]:
    """Scores by id of held-out slides with the averaged weights; the score of all joins `run.scores` on every process.

    Args:
        run: The run.
        setup: Its fold.
        most: Most slides, spread evenly; all of them where it is None.

    Returns:
        Empty on all processes but the first one, which is the one that predicts.
    """
    score, by_id = 0.0, dict[str, float]()
    if run.accelerator.is_main_process:
        samples = setup.validation
        if most is not None and len(samples) > most:
            samples = [samples[i] for i in np.linspace(0, len(samples) - 1, most).round().astype(int)]
        model, on_slide = run.averaged(), overlay_logger(run.accelerator, run.step, samples)
        if setup.manifest.objects is None:
            by_id = validate_slides(model, setup, samples, on_slide)
            score = float(np.mean(list(by_id.values())))
        else:
            score, by_id = validate_objects(model, setup, samples, on_slide)
    run.scores.append(broadcast(score, run.accelerator))
    return by_id


def validate_slides(
    model: torch.nn.Module, setup: FoldSetup, samples: list[Sample], on_slide: OnSlide | None = None
) -> dict[str, float]:
    """Dice of whole slides, the mean over classes, through the predict layer, at `VALIDATION_THRESHOLD`."""
    was_training = model.training
    folded = fold_norms(model.eval(), setup.manifest.preprocessing.slices)  # as it will predict
    stages = stages_of(folded, setup.manifest)
    by_id = {}
    for sample in tqdm(samples, desc="validate", unit="slide", leave=False, dynamic_ncols=True):
        (masks,) = predict_masks(stages, sample, [VALIDATION_THRESHOLD], setup.competition.never_empty)
        truth, counted = setup.competition.target(sample), without_runs(masks, setup.competition.ignored(sample))
        by_id[sample.id] = masks_dice(counted, truth)
        if on_slide is not None:
            on_slide(sample, truth, counted)
    model.train(was_training)
    return by_id
